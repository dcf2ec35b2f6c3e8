"""Read Radiance pictures (.hdr): true linear light, 8 bits per colour and one exponent per pixel.

Source: G. Ward, "Real Pixels", Graphics Gems II, 1991, and Radiance's `color.c`. Read are pictures in the usual order
of rows and columns (`-Y H +X W`), run-length encoded scanline by scanline or not encoded: what renderers and libraries
of panoramas write. Pillow reads none; OpenCV does, and a test compares with it where it is installed.
"""
from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from mirnet_torch.cli import UserError

LARGEST_SIDE = 32767  # of a scanline in this encoding


def read_radiance(path: str | os.PathLike[str]) -> np.ndarray:
    """Return a picture's light, float32 (H, W, 3), RGB, linear, 0 up to some 1e38; the unit is the file's own.

    Raises:
        UserError: the file is missing, no Radiance RGBE picture, or damaged.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    header, blank, rest = content.partition(b"\n\n")
    line, newline, pixels = rest.partition(b"\n")
    size = re.fullmatch(rb"-Y (\d{1,5}) \+X (\d{1,5})", line.strip())
    if not header.startswith(b"#?") or b"FORMAT=32-bit_rle_rgbe" not in header or not blank or not newline or not size:
        raise UserError(f"{path} is no Radiance picture in RGBE with rows from the top and columns from the left")
    height, width = (int(side) for side in size.groups())
    if not 0 < height <= LARGEST_SIDE or not 0 < width <= LARGEST_SIDE:
        raise UserError(f"{path} has a size of {width}x{height}: at most {LARGEST_SIDE} pixels a side can be read")
    try:
        rgbe = _decode(pixels, height, width)
    except (IndexError, ValueError):
        raise UserError(f"{path} is a damaged picture: its pixels end early or overrun a line") from None
    scale = np.ldexp(np.float32(1), rgbe[..., 3:].astype(np.int32) - (128 + 8))
    return np.where(rgbe[..., 3:] > 0, rgbe[..., :3] * scale, 0).astype(np.float32)


def _decode(content: bytes, height: int, width: int) -> np.ndarray:
    """Return the bytes of all pixels, uint8 (H, W, 4).

    Raises:
        ValueError: a run overruns its line, or the file ends early.
        IndexError: the file ends early.
    """
    if content[:2] != b"\x02\x02" or content[2] << 8 | content[3] != width:
        return np.frombuffer(content, np.uint8, height * width * 4).reshape(height, width, 4)
    lines, position = bytearray(), 0
    for _ in range(height):
        if content[position:position + 2] != b"\x02\x02":
            raise ValueError("a line without its mark")
        position += 4
        for _ in range(4):  # red, green, blue, exponent: each a line of runs and of single bytes
            end = len(lines) + width
            while len(lines) < end:
                count = content[position]
                if count > 128:
                    lines += content[position + 1:position + 2] * (count - 128)
                    position += 2
                else:
                    lines += content[position + 1:position + 1 + count]
                    position += 1 + count
                    if not count:
                        raise ValueError("a run of nothing")
            if len(lines) != end:
                raise ValueError("a run overruns its line")
    return np.frombuffer(lines, np.uint8).reshape(height, 4, width).transpose(0, 2, 1)
