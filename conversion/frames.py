"""The pictures that a conversion is calibrated on and tested on: two sets without a common picture.

The centre of every picture is cropped to the aspect of the model and box-filtered to its size, like a camera's frame.
By default both sets are photographs inside scikit-image, darkened by `mirnet_torch.camera`: training photographs to
calibrate on, validation photographs to test on.
"""
from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mirnet_torch.camera import Camera, darken
from mirnet_torch.cli import UserError
from mirnet_torch.data import TRAIN_PHOTOGRAPHS, find_pairs, photograph, validation_frames
from mirnet_torch.images import SUFFIXES, camera_size, read_image

EXPOSURES = 16  # calibration frames of every embedded training photograph
# The ranges must also suit frames darker than those of `camera.DARK`, and normally lit ones.
CALIBRATION = Camera(exposure=(0.005, 1.0))
EMBEDDED = "photographs of scikit-image, darkened"


@dataclass(frozen=True)
class Frames:
    """Dark frames of one size, uint8 (N, H, W, C), and their bright truths, or None if they are unknown."""

    source: str  # a folder's name or EMBEDDED
    names: tuple[str, ...]
    dark: np.ndarray
    bright: np.ndarray | None = None

    def pick(self, count: int) -> Frames:
        """Return at most `count` of the frames, spread evenly."""
        chosen = np.unique(np.linspace(0, len(self.names) - 1, min(count, len(self.names))).round().astype(int))
        return Frames(self.source, tuple(self.names[i] for i in chosen), self.dark[chosen],
                      None if self.bright is None else self.bright[chosen])


def calibration_frames(folder: str | os.PathLike[str] | None, *, size: tuple[int, int], channels: int) -> Frames:
    """Read the dark images of a folder (its `low` subfolder if it has one), or make the embedded ones.

    Args:
        folder: PNG, JPEG, WebP or BMP files; None for the embedded default.
        size: (width, height).
        channels: 3, or 1 for grey.

    Raises:
        UserError: the folder is missing, has fewer than two images, or one that cannot be read.
    """
    if folder is None:
        dark = [darken(camera_size(photograph(name), size), rng=np.random.default_rng((number, exposure)),
                       camera=CALIBRATION)
                for number, name in enumerate(TRAIN_PHOTOGRAPHS) for exposure in range(EXPOSURES)]
        names = tuple(f"{name}-{exposure + 1}" for name in TRAIN_PHOTOGRAPHS for exposure in range(EXPOSURES))
        return Frames(EMBEDDED, names, _stack(dark, channels))
    paths = image_files(folder)
    if len(paths) < 2:
        found = f"has one image only ({paths[0].name})" if paths else f"has no images ({', '.join(SUFFIXES)})"
        raise UserError(f"the calibration folder {folder} {found}: give at least 2 dark images, better 50, like "
                        "those the model will be used on")
    return Frames(Path(folder).resolve().name, tuple(path.name for path in paths),
                  _stack([camera_size(read_image(path), size) for path in paths], channels))


def paired_frames(folder: str | os.PathLike[str] | None, *, size: tuple[int, int], channels: int) -> Frames:
    """Read the pairs of a folder (see `data.find_pairs`), or make the embedded ones.

    Raises:
        UserError: the folder has no pairs, or bad ones; the message lists them.
    """
    pairs = find_pairs(folder) if folder is not None else None
    names, dark, bright = zip(*validation_frames(pairs, size))
    return Frames(EMBEDDED if folder is None else Path(folder).resolve().name, names, _stack(dark, channels),
                  _stack(bright, channels))


def image_files(folder: str | os.PathLike[str]) -> list[Path]:
    """List the image files of a folder, or of its subfolder `low`, by name.

    Raises:
        UserError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give one with dark images to calibrate on")
    folder = folder / "low" if (folder / "low").is_dir() else folder
    return sorted(path for path in folder.iterdir()
                  if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))


def require_disjoint(calibration: Frames, test: Frames) -> None:
    """Check that no frame is used both to calibrate and to test.

    Raises:
        UserError: some are; the message names them.
    """
    seen = {hashlib.sha256(frame.tobytes()).digest() for frame in calibration.dark}
    both = [name for name, frame in zip(test.names, test.dark) if hashlib.sha256(frame.tobytes()).digest() in seen]
    if both:
        raise UserError(f"{len(both)} of the {len(test.names)} pictures to test on are also calibrated on "
                        f"({', '.join(both[:3])}): give --calibration and --pairs different pictures")


def _stack(images: list[np.ndarray] | tuple[np.ndarray, ...], channels: int) -> np.ndarray:
    stacked = np.stack(images)
    if channels == 3:
        return stacked
    luma = stacked @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    return luma.round().astype(np.uint8)[..., None]
