"""The data of a training run: its sources, opened and checked, and the batches made from them."""
from __future__ import annotations

import hashlib
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mirnet_torch.cli import UserError
from mirnet_torch.scenes.sources import Pair, find_sources, validation_frames
from mirnet_torch.training.options import TrainOptions
from mirnet_torch.training.samples import Augmentation, Batches, Mixture, Samples, Views, open_samples

CACHE_BYTES = 4 * 2 ** 30  # decoded images in memory, all processes together
Frame = tuple[str, np.ndarray, np.ndarray]  # name, dark, bright


@dataclass(frozen=True)
class TrainingData:
    """The samples to train on and the frames to validate on."""

    name: str
    files: str  # fingerprint of all files
    samples: Samples | Views | Mixture
    frames: list[Frame]  # empty in all processes but the first, which validates


def open_data(options: TrainOptions, *, rank: int = 0, world: int = 1) -> TrainingData:
    """Open the data of a training run: the folders of --data, or the embedded photographs.

    Raises:
        UserError: a folder has nothing to train on or bad images, or some scenes are smaller than the patch.
    """
    sources = find_sources(options.sources, low=options.low, high=options.high)
    augmentation = Augmentation(options.patch, flips=options.flips, rotations=options.rotations, scales=options.scales,
                                jitter=options.jitter, yuv422=options.yuv422, rgb565=options.rgb565,
                                jpeg=options.jpeg, pixel_noise=options.pixel_noise,
                                blend=options.blend, relight=options.relight_from if options.relight else 0.0)
    return TrainingData(
        name=sources.name, files=fingerprint(*(source.scenes for source in sources.train), sources.val),
        samples=open_samples(sources, augmentation, seed=options.seed, cache_bytes=CACHE_BYTES // world),
        frames=[] if rank else list(validation_frames(sources.val, options.val_size, seed=options.seed)))


def fingerprint(*groups: Sequence[Pair] | Sequence[Path] | None) -> str:
    """Return a digest of the names and contents of groups of scenes; None is an empty group."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        files = [list(zip([scene.name for scene in group or ()], pool.map(_digest, group or ()))) for group in groups]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _digest(scene: Pair | Path) -> list[str]:
    digests = []
    for path in _paths(scene):
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(2 ** 20):
                digest.update(block)
        digests.append(digest.hexdigest())
    return digests


def _paths(scene: Pair | Path) -> tuple[Path, ...]:
    return (scene.low, scene.high) if isinstance(scene, Pair) else (scene,)


def make_loader(samples: Samples | Views | Mixture, options: TrainOptions, steps: range, device: torch.device, *,
                rank: int = 0, world: int = 1) -> DataLoader[Tensor]:
    """Return the batches of `steps` for one of several processes, uint8 (b, 2, 3, h, w), the dark images first."""
    workers = options.workers
    if workers is None:
        workers = 0 if device.type == "cpu" else min(8, (os.cpu_count() or 1) // world)
    return DataLoader(samples, batch_sampler=Batches(options.patches, steps, rank=rank, world=world),
                      num_workers=workers, worker_init_fn=_start_worker, pin_memory=device.type == "cuda",
                      generator=torch.Generator())  # otherwise it draws an unused seed from the global generator


def reader_fault(error: UserError) -> str:
    """Return the message of a reading error; an error from a worker has it at the end of a traceback."""
    return str(error).strip().splitlines()[-1].removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")


def _start_worker(_: int) -> None:
    # A terminal or a service manager signals all processes at once; the main one saves, then ends its workers.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
