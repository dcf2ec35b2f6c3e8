"""Colours of 16 bits, in PNG and TIFF. Pillow has no mode for them: it keeps the high byte of each, and writes none.

`deep_pixels` decodes a file twice with Pillow, once for either byte, so that what Pillow can read is read. PNG is
written here, since no small library writes 16 bits with an ICC profile; TIFF by tifffile (the extra `[tiff]`), without
EXIF. Grey of 16 bits needs none of this.
"""
from __future__ import annotations

import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from mirnet_torch.cli import UserError, atomic_path
from mirnet_torch.files.images import open_image

DEEP_SUFFIXES = (".png", ".tif", ".tiff")
_OTHER_BYTE = {f"{colours};16{order}": f"{colours};16{other}" for colours in ("RGB", "RGBA", "RGBX")
               for order, other in ("LB", "BL", "NB" if sys.byteorder == "little" else "NL")}
_COLOUR_TYPES = {3: 2, 4: 6}  # of PNG, by the number of channels


class _FewerBits(Exception):
    """A file does not hold colours of 16 bits."""


def deep_pixels(image: Image.Image, path: str | os.PathLike[str]) -> np.ndarray | None:
    """Return all 16 bits of an image that `open_image` returned for this file, or None if the file has fewer.

    Returns:
        uint16 (H, W) for grey, (H, W, 3) for colours, (H, W, 4) with alpha.

    Raises:
        UserError: as `open_image`.
    """
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.int64).clip(0, 65535).astype(np.uint16)
    try:
        low = open_image(path, before_decoding=_take_low_bytes)
    except _FewerBits:
        return None
    return np.asarray(image).astype(np.uint16) << 8 | np.asarray(low)


def _take_low_bytes(image: Image.Image) -> None:
    """Name the other byte order to Pillow, which then keeps the other byte.

    Raises:
        _FewerBits: the colours do not have 16 bits.
    """
    tiles = []
    for codec, extents, offset, arguments in image.tile if isinstance(image, ImageFile.ImageFile) else ():
        order, *others = arguments if isinstance(arguments, tuple) and arguments else (arguments,)
        if order not in _OTHER_BYTE:
            raise _FewerBits
        other = _OTHER_BYTE[order]
        tiles.append(ImageFile._Tile(codec, extents, offset, (other, *others) if others else other))
    if not tiles:
        raise _FewerBits
    image.tile = tiles  # type: ignore[attr-defined]


def write_deep(pixels: np.ndarray, path: str | os.PathLike[str], *, icc_profile: bytes = b"", exif: bytes = b"",
               dpi: tuple[float, float] | None = None, xmp: bytes = b"") -> None:
    """Write uint16 (H, W, 3) or, with alpha, (H, W, 4) to a PNG or TIFF file, whole or not at all.

    `dpi` is the resolution in pixels an inch, across and down.

    Raises:
        UserError: the folder cannot be written, or the suffix names neither format.
        OSError: the disk fails or is full.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in DEEP_SUFFIXES:
        raise UserError(f"cannot write {path} with 16 bits: name it {', '.join(DEEP_SUFFIXES)}")
    with atomic_path(path) as temporary:
        if suffix == ".png":
            temporary.write_bytes(_png(pixels, icc_profile, exif.removeprefix(b"Exif\0\0"), dpi, xmp))
        else:
            _write_tiff(pixels, temporary, icc_profile, dpi, xmp)


def _png(pixels: np.ndarray, icc_profile: bytes, exif: bytes, dpi: tuple[float, float] | None, xmp: bytes) -> bytes:
    """Return the file: ISO/IEC 15948, every row as its difference from the one above (filter 2)."""
    height, width, channels = pixels.shape
    rows = np.ascontiguousarray(pixels, ">u2").view(np.uint8).reshape(height, -1)
    filtered = np.full((height, 1 + rows.shape[1]), 2, np.uint8)
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPES[channels], 0, 0, 0))]
    if icc_profile:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(icc_profile)))
    if dpi:  # PNG counts pixels a metre
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in dpi), 1)))
    if exif:
        chunks.append((b"eXIf", exif))
    if xmp:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes())), (b"IEND", b"")]
    parts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
             for kind, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _write_tiff(pixels: np.ndarray, path: Path, icc_profile: bytes, dpi: tuple[float, float] | None,
                xmp: bytes) -> None:
    try:
        import tifffile
    except ImportError:
        raise UserError('writing TIFF with 16 bits needs tifffile: pip install "mirnet-torch[tiff]"') from None
    tifffile.imwrite(path, pixels, photometric="rgb", compression="zlib", iccprofile=icc_profile or None,
                     extrasamples=["unassalpha"] if pixels.shape[2] == 4 else None, metadata=None, resolution=dpi,
                     resolutionunit=2 if dpi else None, extratags=[(700, 1, len(xmp), xmp, True)] if xmp else [])
