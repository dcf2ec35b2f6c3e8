"""The pixel arithmetic around the int8 model, in integers: what the sketch's pixels.cpp computes, byte for byte.

Before the model: the camera's RGB565 -> 8-bit RGB -> the model's int8 input (space to depth, as `MIRNet.maps` does it).
After it: `MIRNet.apply_maps` of head="affine" for 8-bit colours: r = gain * I + root gain * sqrt(I),
out_c = r_c + sum share_cd r_d + offset_c.

How the second is done in integers: three tables of 256 entries, made from the scale and zero point of the model's
output, turn a code into gain, share (or root gain) or offset, times `one`. Enlarging bilinearly by the side of a cell,
s pixels, weighs 2 x 2 cells with whole weights that sum to grid**2, where grid is 2 s for even s and s for odd. `one`
is chosen so that grid**2 * one = 2**16: all enlarged values have 16 bits after the point. Square roots come from a
table, `ROOTS`, with 3 bits after the point. r has 16, products have 32; the result is rounded once, at the end. Nothing
overflows: gain * I is below 2**30, root gain * root below 2**31 before and 2**28 after the shift, sums have 64 bits.

Departs from `apply_maps`: gains are held below 64 (a level of 4 is white then), shares and root gains within 12. The
error against floating point is in the mean 0.25 grey levels, which is that of rounding to 8 bits, and 1 at most in
ordinary pictures, for cells of up to `LARGEST_CELL` pixels; larger ones would leave the tables too few steps.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mirnet_torch.cli import UserError
from mirnet_torch.model import LOG_GAIN_SCALE

LARGEST_CELL = 5
LARGEST_SCALE = 0.1  # of the model's output, for sums of 32 bits
LARGEST_SHARE = 12  # of another colour, or of a root, for products of 32 bits
ROOT_BITS = 3  # after the point
ROOTS = np.array([math.isqrt(255 * level << 2 * ROOT_BITS + 2) + 1 >> 1 for level in range(256)])  # sqrt(255 * level)
INPUT_ZERO_POINT = -128  # the model's input: code = 8-bit level - 128, scale 1/255
CODES = np.arange(-128, 128)  # all int8 codes; entry code + 128 of a table belongs to `code`


@dataclass(frozen=True)
class HeadTables:
    """What every output code of the model means. Entry code + 128 of each belongs to the int8 `code`."""

    gain: np.ndarray  # exp(LOG_GAIN_SCALE * value) * one, held below 64
    share: np.ndarray  # value * one, held within 12; of a root gain, too
    offset: np.ndarray  # value * 255 * one, in levels


def head_tables(scale: float, zero_point: int, *, shuffle: int) -> HeadTables:
    """Make the tables, int32, for a model whose output has this scale and zero point and whose cells this side.

    Raises:
        UserError: the cells are too large or the scale is too coarse for this arithmetic.
    """
    if shuffle > LARGEST_CELL or scale >= LARGEST_SCALE:
        raise UserError(f"the sketch's arithmetic takes cells of at most {LARGEST_CELL}x{LARGEST_CELL} pixels and "
                        f"output scales below {LARGEST_SCALE}, not {shuffle}x{shuffle} and {scale:.3g}: train a "
                        "network with smaller cells and maps of a few units, or convert with --target litert")
    one = (1 << 16) / _grid(shuffle) ** 2
    value = np.float64(np.float32(scale)) * (CODES - zero_point)
    gain = np.minimum(np.exp(np.minimum(LOG_GAIN_SCALE * value, 10.0)) * one, np.ceil(64 * one) - 1)
    share = value.clip(-LARGEST_SHARE, LARGEST_SHARE) * one
    return HeadTables(*(np.rint(entries).astype(np.int32) for entries in (gain, share, value * 255 * one)))


def _grid(shuffle: int) -> int:
    """Return how many steps there are from the centre of a cell to the next, so that all pixels lie on steps."""
    return shuffle if shuffle % 2 else 2 * shuffle


def rgb_to_rgb565(rgb: np.ndarray) -> np.ndarray:
    """Turn 8-bit pictures (..., 3) into RGB565 (..., 2), high byte first, as the camera sends it: low bits are cut."""
    red, green, blue = (rgb[..., channel].astype(np.uint16) for channel in range(3))
    word = (red >> 3) << 11 | (green >> 2) << 5 | blue >> 3
    return np.stack([word >> 8, word & 255], -1).astype(np.uint8)


def rgb565_to_rgb(frame: np.ndarray) -> np.ndarray:
    """Turn RGB565 (..., 2), high byte first, into 8-bit RGB (..., 3); the bits are repeated, so that white is 255."""
    word = frame[..., 0].astype(np.uint16) << 8 | frame[..., 1]
    red, green, blue = word >> 11, word >> 5 & 63, word & 31
    return np.stack([red << 3 | red >> 2, green << 2 | green >> 4, blue << 3 | blue >> 2], -1).astype(np.uint8)


def model_input(rgb: np.ndarray, *, shuffle: int) -> np.ndarray:
    """Turn an 8-bit picture (H, W, 3) into the model's input, int8 (H/s, W/s, 3*s*s), s being `shuffle`.

    Channel (c*s + y)*s + x of a cell is colour c of its pixel (y, x).
    """
    rows, columns = rgb.shape[0] // shuffle, rgb.shape[1] // shuffle
    cells = rgb.reshape(rows, shuffle, columns, shuffle, 3).transpose(0, 2, 4, 1, 3)
    return (cells.astype(np.int16) + INPUT_ZERO_POINT).astype(np.int8).reshape(rows, columns, -1)


def apply_maps(rgb: np.ndarray, maps: np.ndarray, tables: HeadTables) -> np.ndarray:
    """Return the restored picture.

    Args:
        rgb: the dark picture, uint8 (H, W, 3).
        maps: the model's output for it, int8 (H/s, W/s, 15): 3 log gains, 6 shares 01 02 10 12 20 21, 3 offsets,
            3 root gains.
        tables: of the model, see `head_tables`.

    Returns:
        uint8 (H, W, 3).
    """
    codes = maps.astype(np.intp) + 128
    cells = np.concatenate([tables.gain[codes[..., :3]].astype(np.int64), tables.share[codes[..., 3:9]],
                            tables.offset[codes[..., 9:12]], tables.share[codes[..., 12:]]], -1)
    shuffle = len(rgb) // len(maps)
    pixels = _enlarge(_enlarge(cells, shuffle, axis=0), shuffle, axis=1)  # (H, W, 15), 16 bits after the point
    gain, share, offset, root_gain = np.split(pixels, [3, 9, 12], axis=-1)
    raised = gain * rgb + (root_gain * ROOTS[rgb] >> ROOT_BITS)  # levels, 16 bits
    result = np.empty(rgb.shape, np.uint8)
    for channel in range(3):
        first, second = (other for other in range(3) if other != channel)
        total = ((raised[..., channel] + offset[..., channel] << 16)  # 32 bits
                 + share[..., 2 * channel] * raised[..., first] + share[..., 2 * channel + 1] * raised[..., second])
        result[..., channel] = np.clip(total + (1 << 31) >> 32, 0, 255)
    return result


def _enlarge(cells: np.ndarray, shuffle: int, *, axis: int) -> np.ndarray:
    """Enlarge along an axis, bilinearly between the centres of cells, all values times the grid."""
    cells = np.moveaxis(cells, axis, 0)
    grid = _grid(shuffle)
    # Positions in halves of a pixel; `before` is the last cell whose centre is not behind the pixel's.
    before, behind = np.divmod(2 * np.arange(len(cells) * shuffle) + 1 - shuffle, 2 * shuffle)
    weight = (behind * grid // (2 * shuffle)).reshape(-1, *[1] * (cells.ndim - 1))  # of the cell after it
    last = len(cells) - 1
    enlarged = (grid - weight) * cells[before.clip(0)] + weight * cells[(before + 1).clip(max=last)]
    return np.moveaxis(enlarged, 0, axis)
