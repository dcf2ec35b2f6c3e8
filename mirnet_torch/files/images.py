"""Read, write and convert images.

On disk and in numpy they are 8-bit RGB (H, W, 3), in torch float RGB in [0, 1], (3, H, W). Pillow reads the files, but
only the usual formats of photographs are accepted: PNG, JPEG, WebP, BMP, TIFF, and HEIC with its extra. Pillow has no
mode for colours of 16 bits; `deep_images` reads and writes them.
"""
from __future__ import annotations

import contextlib
import os
import stat
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Sequence

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from mirnet_torch.cli import UserError, atomic_path, require_extra

if TYPE_CHECKING:
    from torch import Tensor

PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # editors keep their history in one chunk
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
HEIC_SUFFIXES = (".heic", ".heif", ".hif")  # read with the extra [heic]
RAW_SUFFIXES = (".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".iiq", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw",
                ".rw2", ".rwl", ".srw", ".x3f")  # read by `photographs` with the extra [raw]
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_PLANES, _BITS = 284, 258  # tags of TIFF
_STRIP = 2 ** 22  # pixels that are converted at a time
_LOSSY: dict[str, Any] = {"quality": 95}
_TIFF = {"compression": "tiff_adobe_deflate"}
_OPTIONS: dict[str, dict[str, Any]] = {
    ".jpg": _LOSSY | {"subsampling": 0}, ".jpeg": _LOSSY | {"subsampling": 0}, ".webp": _LOSSY,
    ".tif": _TIFF, ".tiff": _TIFF}


def open_image(path: str | os.PathLike[str], *,
               before_decoding: Callable[[Image.Image], None] | None = None) -> Image.Image:
    """Open and decode an image file, turned upright as its EXIF orientation says; any Pillow mode but F and LAB.

    Of colours of 16 bits the high bytes are kept, see `deep_images`; of several frames or pages the first is taken.
    `before_decoding` is called with the opened file.

    Raises:
        UserError: the file is missing, not a regular file, not an image, truncated, or too large to be a photograph.
    """
    formats: tuple[str, ...] = FORMATS
    if os.path.splitext(path)[1].lower() in HEIC_SUFFIXES:
        require_extra("heic", f"reading {path}")
        import pillow_heif
        pillow_heif.register_heif_opener()
        formats += ("HEIF",)
    try:
        require_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large pictures and odd metadata; real faults are exceptions
            with Image.open(path, formats=formats) as image:
                if image.mode in ("F", "LAB"):
                    raise UserError(f"{path} holds {image.mode} values: convert it to RGB of 8 or 16 bits first")
                if isinstance(image, TiffImageFile) and _has_deep_planes(image):
                    raise UserError(f"{path} holds 16 bits in separate planes of colours: save it with the colours "
                                    "of a pixel together (contiguous, chunky)")
                if before_decoding is not None:
                    before_decoding(image)
                image.load()
                return upright(image, in_place=True)
    except UnidentifiedImageError:
        why = f"readable: {', '.join(SUFFIXES)}" if os.path.getsize(path) else "the file is empty"
        raise UserError(f"{path} is not a readable image ({why})") from None
    except Image.DecompressionBombError:
        raise UserError(f"{path} has more pixels than a photograph: refused") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, RuntimeError, struct.error) as error:  # of decoders
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"cannot read {path} as an image: {error.strerror}") from None
        raise UserError(f"{path} is a damaged image: {error}") from None


def require_file(path: str | os.PathLike[str]) -> None:
    """Raise a UserError if nothing has a name, or neither a file nor a folder; a folder fails when it is opened."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UserError(f"{path} is not a regular file")  # a FIFO would wait for ever


def _has_deep_planes(image: TiffImageFile) -> bool:
    """Return whether a TIFF holds more than 8 bits a colour in separate planes, which Pillow decodes wrongly."""
    return image.tag_v2.get(_PLANES) == 2 and max(image.tag_v2.get(_BITS, (8,))) > 8


def upright(image: Image.Image, *, in_place: bool = False) -> Image.Image:
    """Turn an image as its EXIF orientation says; without `in_place` a copy."""
    image = image if in_place else image.copy()
    with contextlib.suppress(Exception):  # damaged EXIF fails in many ways; the picture itself is fine
        ImageOps.exif_transpose(image, in_place=True)
    return image


def is_grey(image: Image.Image) -> bool:
    """Return whether an image has no colour channels (1, 8 or 16 bits, with or without alpha)."""
    return image.mode in ("1", "L", "LA") or image.mode.startswith("I")


def to_grey(image: Image.Image) -> np.ndarray:
    """Return an image's luma as uint8 (H, W); alpha is dropped, 16 bits are scaled to 8."""
    if image.mode.startswith("I"):
        return to_8_bits(np.asarray(image).astype(np.int64).clip(0, 65535))
    return np.array(image.convert("L"))


def to_8_bits(deep: np.ndarray) -> np.ndarray:
    """Scale levels from 0 to 65535 to uint8, rounded to the nearest."""
    return ((deep.astype(np.int64) + 128) // 257).astype(np.uint8)


def luma(pixels: np.ndarray) -> np.ndarray:
    """Return the luma (BT.601) of uint8, uint16 or floating-point (H, W, 3) as (H, W) of the same type."""
    if pixels.dtype == np.uint8:
        return np.array(Image.fromarray(pixels).convert("L"))
    values = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    return values.astype(pixels.dtype) if pixels.dtype.kind == "f" else np.rint(values).astype(pixels.dtype)


def to_rgb(image: Image.Image) -> np.ndarray:
    """Return an image's colours as uint8 (H, W, 3); alpha is dropped, 16 bits are scaled to 8."""
    if is_grey(image):
        return np.repeat(to_grey(image)[..., None], 3, axis=2)
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(_STRIP // width, 1)
    for top in range(0, height, rows):  # Pillow makes three copies on the way, of a strip only
        strip = image.crop((0, top, width, min(top + rows, height)))
        if image.mode == "P":
            strip = strip.convert("RGBA")  # Pillow needs this step for palettes with transparency
        pixels[top:top + rows] = np.asarray(strip.convert("RGB"))
    return pixels


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image file as upright RGB, uint8 (H, W, 3). Raises what `open_image` raises."""
    return to_rgb(open_image(path))


def write_image(image: np.ndarray | Image.Image, path: str | os.PathLike[str], **options: Any) -> None:
    """Write uint8 (H, W, 3) or a Pillow image to a file, whole or not at all.

    `options` go to Pillow's `save`. The default quality of JPEG and WebP is 95.

    Raises:
        UserError: the folder cannot be written, or the format (by the suffix) is unknown or cannot hold the image.
        OSError: the disk fails or is full.
    """
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    suffix = Path(path).suffix
    with atomic_path(path) as temporary:
        try:
            picture.save(temporary, **_OPTIONS.get(suffix.lower(), {}) | options)
        except (ValueError, KeyError, RuntimeError) as error:  # the last from damaged tags that a TIFF keeps
            raise UserError(f"cannot write {path} as {suffix or 'an image'}: {error}") from None
        except OSError as error:
            if error.errno is not None:  # the disk failed, not the format
                raise
            raise UserError(f"cannot write {path}: {error}") from None


def to_tensor(image: np.ndarray) -> Tensor:
    """Turn uint8 (H, W, 3) into float32 (3, H, W) in [0, 1]."""
    import torch  # here: running a converted network needs no PyTorch

    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255


def camera_size(image: np.ndarray, size: tuple[int, int] = (160, 120)) -> np.ndarray:
    """Crop the centre of uint8 (H, W, 3) to the aspect of `size` (width, height) and box-filter it to that size."""
    width, height = size
    rows, columns = image.shape[:2]
    crop_w = max(min(columns, round(rows * width / height)), 1)
    crop_h = max(min(rows, round(columns * height / width)), 1)
    left, top = (columns - crop_w) // 2, (rows - crop_h) // 2
    box = (left, top, left + crop_w, top + crop_h)
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BOX, box=box))


def side_by_side(images: Sequence[np.ndarray], *, gap: int = 4) -> np.ndarray:
    """Put uint8 (H, W, 3) images of one height into one row, with `gap` white columns between them."""
    white = np.full((images[0].shape[0], gap, 3), 255, np.uint8)
    return np.concatenate([part for image in images for part in (white, image)][1:], axis=1)


def stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Return pictures (h, w, 3) one below the other, padded with black to the width of the widest."""
    width = max(row.shape[1] for row in rows)
    return np.vstack([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])
