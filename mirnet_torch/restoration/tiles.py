"""Tiles and copies of large images, so that these need little memory: tiles overlap and fade into each other."""
from __future__ import annotations

import numpy as np

TILE, OVERLAP = 512, 64  # pixels, of the network that removes noise from a large photograph
FEATHER = 32  # pixels over which tiles fade that a whole network sees


def shrunk_size(height: int, width: int, pixels: int) -> tuple[int, int]:
    """Return rows and columns of a copy of so many pixels in a picture's aspect, or its own size if less."""
    scale = min((pixels / (height * width)) ** 0.5, 1)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def windows(length: int, tile: int, overlap: int, multiple: int) -> list[tuple[slice, np.ndarray]]:
    """Cover 0 .. length with overlapping windows; return each with its weights, which sum to 1 at every position.

    Windows start at multiples of `multiple`, so that the coarse positions are those of the whole image. Weights rise
    and fall linearly over `overlap` positions at an edge inside the image.
    """
    last = max(-(-(length - tile) // multiple) * multiple, 0)
    starts = [*range(0, last, (tile - overlap) // multiple * multiple), last]
    total = np.zeros(length)
    windows = []
    for start in starts:
        stop = min(start + tile, length)
        position = np.arange(start, stop) + 0.5
        weight = np.ones_like(position)
        if start > 0:
            weight = np.minimum(weight, (position - start) / max(overlap, 1))
        if stop < length:
            weight = np.minimum(weight, (stop - position) / max(overlap, 1))
        total[start:stop] += weight
        windows.append((slice(start, stop), weight))
    return [(window, weight / total[window]) for window, weight in windows]
