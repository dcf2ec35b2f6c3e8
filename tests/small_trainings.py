"""What the tests of training share: a small data folder, a small network, and the comparison of two checkpoints."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data

from mirnet_torch.scenes.camera import darken

torch.set_num_threads(1)  # the network is too small for more
NETWORK = {"n_feat": 8, "n_RRG": 1, "n_MSRB": 1, "height": 2}


def write_pairs(folder: Path, names, *, photograph=data.astronaut, size=(40, 32), suffixes=(".png", ".png"), seed=0):
    """Write pairs cut from a photograph, the dark image by the camera model, into folder/low and folder/high."""
    rng = np.random.default_rng(seed)
    width, height = size
    image = photograph()
    for name in names:
        top, left = rng.integers(image.shape[0] - height), rng.integers(image.shape[1] - width)
        bright = image[top:top + height, left:left + width]
        for side, content, suffix in (("low", darken(bright, rng=rng), suffixes[0]), ("high", bright, suffixes[1])):
            (folder / side).mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(folder / side / f"{name}{suffix}")
    return folder


def write_lol_v2(root, half="Train", numbers=range(3)):
    """Write pairs as the captured half of LOL-v2 has them: Low/low00001.png and Normal/normal00001.png."""
    write_pairs(root / half, numbers)
    for side, name in (("low", "Low"), ("high", "Normal")):
        (root / half / side).rename(root / half / name)
        for path in (root / half / name).iterdir():
            path.rename(path.with_name(f"{name.lower()}{int(path.stem):05d}.png"))
    return root


def write_data(root: Path) -> Path:
    """Write a data folder with ten training and two validation pairs, and the configuration of a small network."""
    write_pairs(root / "data" / "train", range(10))
    write_pairs(root / "data" / "val", range(2), photograph=data.coffee)
    (root / "small.json").write_text(json.dumps(NETWORK))
    return root


def small_options(root: Path) -> dict:
    """Return options that use everything random in training: crops at all scales, jitter, MixUp from the start."""
    return dict(data=root / "data", config=root / "small.json", patch=(16, 12), batch=4, epochs=3, seed=3, lr=1e-3,
                scales=True, jitter=True, mixup_from=1, device="cpu", checkpoint_minutes=0.0)


def as_arguments(options: dict) -> list[str]:
    """Return the same options for the command line."""
    words = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [flag, "x".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return words


def start(arguments: list[str], **options) -> subprocess.Popen:
    """Start the command in a process of its own, with one thread."""
    return subprocess.Popen([sys.executable, "-m", "mirnet_torch.train", *arguments], text=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1"}, **options)


def load_state(run: Path) -> dict:
    """Read a run's checkpoint, less what names the run folder."""
    state = torch.load(run / "last.pt", weights_only=True)
    del state["options"]["out"], state["command"]
    return state


def differences(ours, theirs, path: str = "") -> list[str]:
    """Name everything in which two nested states are not equal bit for bit."""
    if isinstance(ours, torch.Tensor):
        return [] if torch.equal(ours, theirs) else [path]
    if isinstance(ours, dict):
        if ours.keys() != theirs.keys():
            return [f"{path}: {ours.keys() ^ theirs.keys()}"]
        return [each for key in ours for each in differences(ours[key], theirs[key], f"{path}/{key}")]
    if isinstance(ours, (list, tuple)) and len(ours) == len(theirs):
        return [each for key, pair in enumerate(zip(ours, theirs)) for each in differences(*pair, f"{path}/{key}")]
    return [] if ours == theirs else [f"{path}: {ours} and {theirs}"]
