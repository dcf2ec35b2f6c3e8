"""Picture files of the viewer: what it reads, and what it writes, all of it or nothing."""
from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Iterable

import numpy as np
from link import InputError, Picture
from PIL import Image, ImageDraw, ImageOps

LABEL_HEIGHT = 14  # pixels below a picture; Pillow's own font fits
KINDS = ("dark", "bright")


def read_picture(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read a picture as the camera would deliver it: upright, its centre, of this width and height.

    Returns:
        uint8 (height, width, 3).

    Raises:
        InputError: there is no such picture.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # grey of 16 bits, of which Pillow would make white
                upright = Image.fromarray(np.rint(np.asarray(upright).clip(0, 65535) / 257).astype(np.uint8))
            return np.asarray(ImageOps.fit(upright.convert("RGB"), size, Image.Resampling.BOX))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        reason = "there is no such file" if not path.exists() else "it is no picture that can be read"
        raise InputError(f"{path}: {reason}; name a PNG or JPEG file") from error


def names_for(paths: Iterable[Path], folder: Path) -> list[str]:
    """Return a name for the results of each picture, its stem or with a number, so that no file is written twice.

    No result takes the name of one of the pictures themselves either.
    """
    paths = list(paths)
    taken = {path.absolute() for path in paths}
    names = []
    for path in paths:
        name, number = path.stem, 1
        while results(folder, name) & taken:
            number += 1
            name = f"{path.stem}-{number}"
        taken |= results(folder, name)
        names.append(name)
    return names


def next_number(folder: Path) -> int:
    """Return the number after the highest that names a picture in a folder, 0 if none does."""
    found = (re.fullmatch(r"(\d+)-\w+\.png", path.name) for path in folder.glob("*.png"))
    return max((int(match[1]) + 1 for match in found if match), default=0)


def results(folder: Path, name: str) -> set[Path]:
    """Return the files in which `save_picture` puts a picture."""
    return {(folder / f"{name}-{kind}.png").absolute() for kind in KINDS}


def save_picture(picture: Picture, folder: Path, name: str) -> list[Path]:
    """Write both frames of a picture as PNG files and return their paths.

    Raises:
        InputError: the folder cannot be written.
    """
    paths = []
    for kind in KINDS:
        paths.append(folder / f"{name}-{kind}.png")
        _save(paths[-1], Image.fromarray(getattr(picture, kind)), {"format": "PNG"})
    return paths


def save_gif(path: Path, pictures: list[Image.Image], milliseconds: list[int]) -> None:
    """Write pictures of one size as a GIF that repeats; each is shown for its milliseconds.

    Raises:
        InputError: the folder cannot be written.
    """
    _save(path, pictures[0], {"format": "GIF", "save_all": True, "append_images": pictures[1:], "loop": 0,
                              "duration": milliseconds})


def side_by_side(picture: Picture, *, labels: tuple[str, str], scale: float = 1.0) -> Image.Image:
    """Draw the dark frame on the left, the bright one on the right, and a label under each."""
    height, width = (max(1, round(side * scale)) for side in picture.dark.shape[:2])
    canvas = Image.new("RGB", (2 * width, height + LABEL_HEIGHT))
    draw = ImageDraw.Draw(canvas)
    for column, (kind, label) in enumerate(zip(KINDS, labels)):
        frame = Image.fromarray(getattr(picture, kind))
        canvas.paste(frame.resize((width, height), Image.Resampling.NEAREST), (column * width, 0))
        draw.text((column * width + 4, height + 1), label, fill="white")
    return canvas


def _save(path: Path, image: Image.Image, options: dict[str, object]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(suffix=path.suffix, dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                image.save(file, **options)  # type: ignore[arg-type]
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; name another folder with --save") from error
