"""Training and validation pairs: folders of dark and bright images, or photographs darkened by `camera.darken`.

Layouts of a data folder (PNG, JPEG, WebP, BMP; the two images of a pair have the same name up to the suffix):

    DIR/{low,high}                      without a split: every tenth pair by name is held out for validation
    DIR/{train,val}/{low,high}
    DIR/{our485,eval15}/{low,high}      the LOL data set as its authors publish it

Every training sample is a pure function of (seed, number of the sample): crop, flips, rotation and camera noise come
from a generator made for that sample alone. So batches do not depend on workers, processes or interruptions. The two
images of a pair are one tensor, so every crop, flip and rotation applies to both.
"""
from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Iterator, Sequence

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision.transforms.v2 import functional as F

from mirnet_torch.camera import FULL_LIGHT, RETAKE, darken
from mirnet_torch.cli import UserError
from mirnet_torch.images import SUFFIXES, camera_size, read_image

LAYOUTS = (("train", "val"), ("our485", "eval15"))
HOLD_OUT = 10  # every tenth pair of a folder without a split
SHOWN = 20  # bad pairs that an error lists by name
VIEWS = 32  # samples of every embedded photograph in one epoch
VAL_FRAMES = 3  # dark frames of every embedded validation photograph
# Photographs that scikit-image carries in its package (no download). No scene is in both lists.
TRAIN_PHOTOGRAPHS = ("astronaut", "rocket", "stereo_motorcycle", "camera", "brick", "grass")
VAL_PHOTOGRAPHS = ("chelsea", "coffee")
_ORDER, _SAMPLE, _MIXUP, _VALIDATION = range(4)  # independent streams of random numbers


@dataclass(frozen=True)
class Pair:
    """A dark and a bright image of one scene."""

    name: str
    low: Path
    high: Path


def find_pairs(folder: str | os.PathLike[str], split: str | None = None) -> list[Pair]:
    """Find the pairs of a data folder and decode each once, so that bad ones are reported before the work starts.

    Args:
        folder: a folder in one of the layouts of this module's docstring.
        split: "train", "val", or None: the validation part of a folder that has one, else every pair.

    Returns:
        The pairs in natural order of their names (2 before 10).

    Raises:
        UserError: the folder has another layout or no pairs; or some images have no partner, cannot be decoded, or
            differ in size from their partner (one message lists them all).
    """
    return _find(folder, [split])[0]


def find_split(folder: str | os.PathLike[str]) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs to train on and those to validate on. Raises what `find_pairs` raises, once for both."""
    train, val = _find(folder, ["train", "val"])
    return train, val


def _find(folder: str | os.PathLike[str], splits: Sequence[str | None]) -> list[list[Pair]]:
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give one with low/ and high/, train/ and val/, or our485/ and "
                        "eval15/")
    faults: list[str] = []
    chosen = [_choose(folder, split, faults) for split in splits]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        faults += filter(None, pool.map(_fault, [pair for pairs in chosen for pair in pairs]))
    faults = list(dict.fromkeys(faults))  # a folder without a split is searched twice
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise UserError(f"{folder}: {len(faults)} bad images, fix or remove them: {'; '.join(faults[:SHOWN])}{more}")
    return chosen


def _choose(folder: Path, split: str | None, faults: list[str]) -> list[Pair]:
    """Return the pairs of a split; append what has no partner to `faults`."""
    for halves in LAYOUTS:
        there = [half for half in halves if (folder / half).is_dir()]
        if len(there) == 2:
            return _match(folder / halves[0 if split == "train" else 1], faults)
        if there:
            folder = folder / there[0]
            break
    pairs = _match(folder, faults)
    if split is None:
        return pairs
    if len(pairs) == 1 and not faults:
        raise UserError(f"{folder} has one pair only: training needs one more to validate on")
    held_out = pairs[HOLD_OUT - 1::HOLD_OUT] or pairs[-1:]
    return held_out if split == "val" else [pair for pair in pairs if pair not in held_out]


def _match(folder: Path, faults: list[str]) -> list[Pair]:
    """Pair the images of folder/low and folder/high by name; append those without a partner to `faults`."""
    if not ((folder / "low").is_dir() and (folder / "high").is_dir()):
        raise UserError(f"{folder} has no low/ and high/ with the dark and the bright images")
    files: dict[str, dict[str, Path]] = {"low": {}, "high": {}}
    for side, found in files.items():
        for path in sorted((folder / side).iterdir()):
            if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
                continue
            if path.stem in found:
                faults.append(f"{path} has the name of {found[path.stem].name}")
            found[path.stem] = path
    if not files["low"] and not files["high"]:
        raise UserError(f"{folder} has no images in low/ and high/ (readable: {', '.join(SUFFIXES)})")
    for side, other in (("low", "high"), ("high", "low")):
        faults += [f"{path} has no partner in {other}/" for stem, path in files[side].items()
                   if stem not in files[other]]
    names = sorted(files["low"].keys() & files["high"].keys(), key=_natural)
    return [Pair(name, files["low"][name], files["high"][name]) for name in names]


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Sort key that puts 2 before 10."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]


def _fault(pair: Pair) -> str | None:
    sizes = []
    for path in (pair.low, pair.high):
        try:
            height, width = read_image(path).shape[:2]
        except UserError as error:
            return str(error)
        except OSError as error:
            return f"{path}: {error.strerror}"
        sizes.append(f"{width}x{height}")
    return None if sizes[0] == sizes[1] else f"{pair.low} is {sizes[0]}, but {pair.high} is {sizes[1]}"


class Scenes:
    """The scenes to train on: pairs (2, 3, H, W), the dark image first, or photographs (1, 3, H, W), uint8.

    Args:
        pairs: the pairs; None for the embedded photographs.
        cache_bytes: decoded pairs are kept in memory if all of them fit into this many bytes.
    """

    def __init__(self, pairs: Sequence[Pair] | None, *, cache_bytes: int = 0) -> None:
        self.pairs = pairs
        self.views = 1 if pairs is not None else VIEWS
        if pairs is None:
            self.names: Sequence[str] = TRAIN_PHOTOGRAPHS
            self._kept: list[Tensor] | None = [_to_tensor(photograph(name)) for name in TRAIN_PHOTOGRAPHS]
            self.sizes = [(scene.shape[-1], scene.shape[-2]) for scene in self._kept]
            return
        self.names = [pair.name for pair in pairs]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            self.sizes = list(pool.map(_size, pairs))
            fits = sum(6 * width * height for width, height in self.sizes) <= cache_bytes
            self._kept = list(pool.map(_read_pair, pairs)) if fits else None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        if self._kept is not None:
            return self._kept[index]
        assert self.pairs is not None
        return _read_pair(self.pairs[index])


def photograph(name: str) -> np.ndarray:
    """Return a photograph that comes with scikit-image, uint8 (H, W, 3)."""
    image = getattr(skimage.data, name)()
    image = image[0] if isinstance(image, tuple) else image  # the left image of a stereo pair
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


def _size(pair: Pair) -> tuple[int, int]:
    """Return the (width, height) of an image turned upright, read from its header."""
    with Image.open(pair.low) as image:
        turned = image.getexif().get(0x0112, 1) >= 5
        return image.size[::-1] if turned else image.size


def _read_pair(pair: Pair) -> Tensor:
    return _to_tensor(read_image(pair.low), read_image(pair.high))


def _to_tensor(*images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)  # channels last in memory: faster to resize


@dataclass(frozen=True)
class Augmentation:
    """How a patch is cut from a scene and varied."""

    patch: tuple[int, int]  # (width, height)
    flips: bool = True  # left-right and upside down
    rotations: bool = True  # by quarter turns
    scales: bool = False  # crops from the size of the patch up to the whole scene, resized to the patch
    jitter: bool = False  # the camera model varies every other dark patch: exposure, white balance, noise, RGB565
    relight: float = 0.0  # least light of dark patches made from bright ones, one in ten of all; 0: none are made


class Samples(Dataset[Tensor]):
    """An endless sequence of training samples: every scene once in each pass, in a new order for each pass.

    A sample is a pair of patches, uint8 (2, 3, h, w), the dark one first. It depends only on the seed and its number.

    Raises:
        UserError: some scenes are smaller than the patch.
    """

    def __init__(self, scenes: Scenes, augmentation: Augmentation, *, seed: int) -> None:
        self.scenes, self.augmentation, self.seed = scenes, augmentation, seed
        width, height = augmentation.patch
        small = [f"{name} ({w}x{h})" for name, (w, h) in zip(scenes.names, scenes.sizes) if w < width or h < height]
        if small:
            more = f" and {len(small) - SHOWN} more" if len(small) > SHOWN else ""
            raise UserError(f"{len(small)} scenes are smaller than the patch {width}x{height}, give a smaller --patch: "
                            f"{', '.join(small[:SHOWN])}{more}")

    def __len__(self) -> int:
        """Samples in one pass, which is an epoch."""
        return len(self.scenes) * self.scenes.views

    def __getitem__(self, number: int) -> Tensor:
        passed, position = divmod(number, len(self))
        rng = np.random.default_rng((self.seed, _SAMPLE, number))
        scene = int(_order(self.seed, passed, len(self))[position]) % len(self.scenes)
        patches = cut_patch(self.scenes[scene], self.augmentation, rng)
        if self.augmentation.relight and (draw := rng.random()) < 0.1:
            any_light = replace(FULL_LIGHT, exposure=(self.augmentation.relight, 1.0), white_balance=(0.9, 1.1))
            bright = patches[-1:]
            return torch.cat([_darkened(bright, rng, camera=FULL_LIGHT if draw < 0.05 else any_light), bright])
        if len(patches) == 1:
            return torch.cat([_darkened(patches, rng), patches])
        if self.augmentation.jitter and rng.random() < 0.5:
            return torch.cat([_darkened(patches[:1], rng, camera=RETAKE), patches[1:]])
        return patches.contiguous()


@lru_cache(maxsize=2)
def _order(seed: int, passed: int, length: int) -> np.ndarray:
    return np.random.default_rng((seed, _ORDER, passed)).permutation(length)


def cut_patch(scene: Tensor, augmentation: Augmentation, rng: np.random.Generator) -> Tensor:
    """Cut one random patch from all n images of uint8 (n, 3, H, W); scale, flip and turn it at random."""
    columns, rows = scene.shape[-1], scene.shape[-2]
    width, height = augmentation.patch
    turns = int(rng.integers(4)) if augmentation.rotations else 0
    if turns % 2 and (height > columns or width > rows):  # the patch does not fit when turned by 90 degrees
        turns -= 1
    if turns % 2:
        width, height = height, width
    scale = min(columns / width, rows / height) ** rng.random() if augmentation.scales else 1.0
    crop_w, crop_h = min(columns, round(width * scale)), min(rows, round(height * scale))
    left, top = int(rng.integers(columns - crop_w + 1)), int(rng.integers(rows - crop_h + 1))
    patch = F.crop(scene, top, left, crop_h, crop_w)
    if (crop_w, crop_h) != (width, height):
        patch = F.resize(patch, [height, width], antialias=True)
    if augmentation.flips:
        patch = F.horizontal_flip(patch) if rng.random() < 0.5 else patch
        patch = F.vertical_flip(patch) if rng.random() < 0.5 else patch
    return torch.rot90(patch, turns, (-2, -1))


def _darkened(patch: Tensor, rng: np.random.Generator, **options) -> Tensor:
    """Darken a patch (1, 3, h, w); half of all are also rounded to RGB565, which a microcontroller's camera sends."""
    image = patch[0].permute(1, 2, 0).numpy()
    return _to_tensor(darken(image, rng=rng, rgb565=rng.random() < 0.5, **options))


class Batches(Sampler[list[int]]):
    """The sample numbers of every step for one of several processes; every number goes to exactly one process.

    Args:
        batch: samples per process and step.
        steps: the steps to run; a resumed training does not start at 0.
        rank: this process.
        world: number of processes.
    """

    def __init__(self, batch: int, steps: range, *, rank: int = 0, world: int = 1) -> None:
        self.batch, self.steps, self.rank, self.world = batch, steps, rank, world

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            first = (step * self.world + self.rank) * self.batch
            yield list(range(first, first + self.batch))


def mixup_draw(alpha: float, batch: int, *, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Return MixUp's partners, a permutation (batch,), and shares from Beta(alpha, alpha), (batch, 1, 1, 1).

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
    """
    rng = np.random.default_rng((seed, _MIXUP, step))
    partners = torch.from_numpy(rng.permutation(batch))
    return partners, torch.from_numpy(rng.beta(alpha, alpha, (batch, 1, 1, 1)).astype(np.float32))


def validation_frames(pairs: Sequence[Pair] | None, size: tuple[int, int] | None, *,
                      seed: int = 0) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield (name, dark, bright), uint8 (H, W, 3), of pairs or of the embedded validation photographs.

    Args:
        pairs: the pairs; None for the embedded photographs, each darkened `VAL_FRAMES` times.
        size: (width, height) to crop and box-filter every image to, as `images.camera_size` does; None: unchanged.
        seed: seed of the camera model.
    """
    for pair in pairs or ():
        low, high = read_image(pair.low), read_image(pair.high)
        yield (pair.name, camera_size(low, size), camera_size(high, size)) if size else (pair.name, low, high)
    for number, name in enumerate(VAL_PHOTOGRAPHS if pairs is None else ()):
        high = camera_size(photograph(name), size) if size else photograph(name)
        for frame in range(VAL_FRAMES):
            rng = np.random.default_rng((seed, _VALIDATION, number, frame))
            yield f"{name}-{frame + 1}", darken(high, rng=rng), high
