"""What tests of panoramas share: Radiance files written as their format says, and a scene with a lamp."""
from __future__ import annotations

import numpy as np

HEADER = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n"


def rgbe(light: np.ndarray) -> np.ndarray:
    """Encode light (H, W, 3) as the format's author describes it: a common exponent, mantissas of 8 bits."""
    mantissa, exponent = np.frexp(light.max(-1))
    scale = np.where(light.max(-1) > 0, mantissa * 256 / np.maximum(light.max(-1), 1e-38), 0)
    return np.concatenate([light * scale[..., None], exponent[..., None] + 128], -1).astype(np.uint8)


def encoded(pixels: np.ndarray, *, runs: bool) -> bytes:
    """Write a file's content; with runs every line is marked, repeated bytes become runs, others are listed."""
    height, width, _ = pixels.shape
    if not runs:
        return HEADER % (height, width) + pixels.tobytes()
    content = b""
    for line in pixels:
        content += bytes([2, 2, width >> 8, width & 255])
        for channel in line.T:
            ends = [0, *(np.flatnonzero(np.diff(channel)) + 1), width]
            for start, end in zip(ends, ends[1:]):
                for first in range(start, end, 127):
                    count = min(127, end - first)
                    content += bytes([128 + count, channel[first]]) if count > 2 else \
                        bytes([count, *channel[first:first + count]])
    return HEADER % (height, width) + content


def write_radiance(path, light, *, runs=True):
    path.write_bytes(encoded(rgbe(light), runs=runs))
    return path


def scene(height=16, seed=0):
    rng = np.random.default_rng(seed)
    light = np.exp(rng.normal(0, 2, (height, 2 * height, 3))).astype(np.float32)
    light[:, :height] = light[0, 0]  # something for runs
    return light
