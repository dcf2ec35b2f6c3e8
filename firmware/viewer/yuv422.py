"""The format of a dark frame, described in mirnet_nano33ble/PROTOCOL.md: YUV 4:2:2 in the order Y U Y V (YUYV).

The viewer stands alone, with numpy, pillow and pyserial only, so it has a conversion of its own. Tests compare it with
the sketch's frame_format.h and with the camera model of mirnet_torch, byte for byte.
"""
from __future__ import annotations

import numpy as np


def to_yuyv(picture: np.ndarray) -> np.ndarray:
    """Convert uint8 (..., W, 3), W even, to a frame, uint8 (..., W, 2); two pixels share the mean of their chroma."""
    red, green, blue = np.moveaxis(picture.astype(np.int32), -1, 0)
    frame = np.empty((*picture.shape[:-1], 2), np.int32)
    frame[..., 0] = 77 * red + 150 * green + 29 * blue + 128 >> 8
    red, green, blue = (colour[..., ::2] + colour[..., 1::2] for colour in (red, green, blue))
    frame[..., ::2, 1] = 128 + (-43 * red - 85 * green + 128 * blue + 256 >> 9)
    frame[..., 1::2, 1] = 128 + (128 * red - 107 * green - 21 * blue + 256 >> 9)
    return frame.clip(0, 255).astype(np.uint8)


def from_yuyv(frame: np.ndarray) -> np.ndarray:
    """Convert a frame, uint8 (..., W, 2), W even, to uint8 (..., W, 3): BT.601 over the full range."""
    luminance, chroma = np.moveaxis(frame.astype(np.int32), -1, 0)
    u, v = (np.repeat(chroma[..., first::2] - 128, 2, -1) for first in (0, 1))
    rgb = [luminance + (359 * v + 128 >> 8), luminance + (-88 * u - 183 * v + 128 >> 8),
           luminance + (454 * u + 128 >> 8)]
    return np.stack(rgb, -1).clip(0, 255).astype(np.uint8)
