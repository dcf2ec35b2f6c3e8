"""The pictures that a conversion is calibrated on and tested on: two sets without a common picture.

The centre of every picture is cropped to the aspect of the model and box-filtered to its size, like a camera's frame.
By default both sets are photographs inside scikit-image, darkened by `mirnet_torch.scenes.camera`: training photographs
to calibrate on, validation photographs to test on.
"""
from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mirnet_torch.cli import UserError
from mirnet_torch.files.images import SUFFIXES, camera_size, luma, read_image
from mirnet_torch.scenes.camera import Camera, darken
from mirnet_torch.scenes.sources import TRAIN_PHOTOGRAPHS, children, find_pairs, photograph, validation_frames

EXPOSURES = 16  # calibration frames of every embedded training photograph
# The ranges must also suit frames darker than those of `camera.DARK`, normally lit ones, and other white balances.
CALIBRATION = Camera(exposure=(0.005, 1.0), white_balance=(0.65, 1.5))
LIT = 64.0  # mean level from which a calibration frame counts as normally lit
EMBEDDED = "photographs of scikit-image, darkened"


@dataclass(frozen=True)
class Frames:
    """Dark frames of one size, uint8 (N, H, W, C), and their bright truths, or None if they are unknown."""

    source: str  # a folder's name or EMBEDDED
    names: tuple[str, ...]
    dark: np.ndarray
    bright: np.ndarray | None = None

    def pick(self, count: int | None) -> Frames:
        """Return at most `count` of the frames, spread evenly; None: all."""
        chosen = _spread(len(self.names), count)
        return Frames(self.source, tuple(self.names[i] for i in chosen), self.dark[chosen],
                      None if self.bright is None else self.bright[chosen])


def calibration_frames(folder: str | os.PathLike[str] | None, *, size: tuple[int, int], channels: int,
                       most: int | None = None) -> Frames:
    """Read the dark images of a folder (its `low` subfolder if it has one), or make the embedded ones.

    Args:
        folder: PNG, JPEG, WebP, BMP or TIFF files; None for the embedded default.
        size: (width, height).
        channels: 3, or 1 for grey.
        most: how many of them to read at most, spread evenly; None: all.

    Raises:
        UserError: the folder is missing, has fewer than two images, or one that cannot be read.
    """
    if folder is None:
        dark = [darken(camera_size(photograph(name), size), rng=np.random.default_rng((number, exposure)),
                       camera=CALIBRATION)
                for number, name in enumerate(TRAIN_PHOTOGRAPHS) for exposure in range(EXPOSURES)]
        names = tuple(f"{name}-{exposure + 1}" for name in TRAIN_PHOTOGRAPHS for exposure in range(EXPOSURES))
        return Frames(EMBEDDED, names, _stack(dark, channels)).pick(most)
    paths = image_files(folder)
    if len(paths) < 2:
        found = f"has one image only ({paths[0].name})" if paths else f"has no images ({', '.join(SUFFIXES)})"
        raise UserError(f"the calibration folder {folder} {found}: give at least 2 dark images, better 50, like "
                        "those the model will be used on")
    paths = [paths[i] for i in _spread(len(paths), most)]
    return Frames(Path(folder).resolve().name, tuple(path.name for path in paths),
                  _stack([camera_size(read_image(path), size) for path in paths], channels))


def paired_frames(folder: str | os.PathLike[str] | None, *, size: tuple[int, int], channels: int,
                  most: int | None = None) -> Frames:
    """Read the pairs of a folder (see `sources.find_pairs`), or make the embedded ones; at most `most`, spread evenly.

    Raises:
        UserError: the folder has no pairs, or bad ones; the message lists them.
    """
    source, pairs = EMBEDDED, None
    if folder is not None:
        source, every = Path(folder).resolve().name, find_pairs(folder)
        pairs = [every[i] for i in _spread(len(every), most)]
    names, dark, bright = zip(*validation_frames(pairs, size))
    return Frames(source, names, _stack(dark, channels), _stack(bright, channels)).pick(most)


def image_files(folder: str | os.PathLike[str]) -> list[Path]:
    """List the image files of a folder, or of its subfolder `low` or `Low`, by name.

    Raises:
        UserError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give one with dark images to calibrate on")
    folder = children(folder, ("low",))[0] or folder
    return sorted(path for path in folder.iterdir()
                  if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))


def without_light(calibration: Frames) -> list[str]:
    """Return a sentence that warns where no calibration frame is normally lit, else none."""
    brightest = float(calibration.dark.mean((1, 2, 3)).max())
    if brightest >= LIT:
        return []
    return [f"Careful: no picture of --calibration is normally lit (the brightest has a mean of {brightest:.0f} of "
            "255), so int8 may burn such frames: add some to the folder; conversion/judge.py measures it."]


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


def _spread(length: int, count: int | None) -> np.ndarray:
    """Return at most `count` of the places of a list, spread evenly; None: all."""
    return np.unique(np.linspace(0, length - 1, min(count or length, length)).round().astype(int))


def with_channels(picture: np.ndarray, channels: int) -> np.ndarray:
    """Return a picture, uint8 (H, W, 3), with its colours (3) or as luma (1), as `enhance` gives it to a network."""
    return picture if channels == 3 else luma(picture)[..., None]


def _stack(images: list[np.ndarray] | tuple[np.ndarray, ...], channels: int) -> np.ndarray:
    return np.stack([with_channels(image, channels) for image in images])
