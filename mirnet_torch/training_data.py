"""The data of a training run: its sources, opened and checked, and the batches made from them."""
from __future__ import annotations

import hashlib
import json
import os
import signal
from dataclasses import dataclass
from typing import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mirnet_torch.cli import UserError
from mirnet_torch.data import Augmentation, Batches, Pair, Samples, Scenes, find_split, validation_frames
from mirnet_torch.options import TrainOptions

CACHE_BYTES = 4 * 2 ** 30  # decoded images in memory, all processes together
Frame = tuple[str, np.ndarray, np.ndarray]  # name, dark, bright


@dataclass(frozen=True)
class TrainingData:
    """The samples to train on and the frames to validate on."""

    name: str
    files: str  # fingerprint of all files
    samples: Samples
    frames: list[Frame]  # empty in all processes but the first, which validates


def open_data(options: TrainOptions, *, rank: int = 0, world: int = 1) -> TrainingData:
    """Open the data of a training run: the pairs of --data, or the embedded photographs.

    Raises:
        UserError: a folder has no pairs or bad ones, or some scenes are smaller than the patch.
    """
    train_pairs, val_pairs = (None, None) if options.data is None else find_split(options.data)
    augmentation = Augmentation(options.patch, flips=options.flips, rotations=options.rotations, scales=options.scales,
                                jitter=options.jitter, relight=options.relight_from if options.relight else 0.0)
    return TrainingData(
        name=options.data.resolve().name if options.data else "photographs of scikit-image",
        files=fingerprint(train_pairs, val_pairs),
        samples=Samples(Scenes(train_pairs, cache_bytes=CACHE_BYTES // world), augmentation, seed=options.seed),
        frames=[] if rank else list(validation_frames(val_pairs, options.val_size, seed=options.seed)))


def fingerprint(*groups: Sequence[Pair] | None) -> str:
    """Return a digest of the names and file sizes of groups of pairs; None is an empty group."""
    files = [[(pair.name, pair.low.stat().st_size, pair.high.stat().st_size) for pair in group or ()]
             for group in groups]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def make_loader(samples: Samples, options: TrainOptions, steps: range, device: torch.device, *, rank: int = 0,
                world: int = 1) -> DataLoader[Tensor]:
    """Return the batches of `steps` for one of several processes, uint8 (b, 2, 3, h, w), the dark images first."""
    workers = options.workers
    if workers is None:
        workers = 0 if device.type == "cpu" else min(8, (os.cpu_count() or 1) // world)
    return DataLoader(samples, batch_sampler=Batches(options.batch, steps, rank=rank, world=world),
                      num_workers=workers, worker_init_fn=_start_worker, pin_memory=device.type == "cuda",
                      generator=torch.Generator())  # otherwise it draws an unused seed from the global generator


def reader_fault(error: UserError) -> str:
    """Return the message of a reading error; an error from a worker has it at the end of a traceback."""
    return str(error).strip().splitlines()[-1].removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")


def _start_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the main process ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
