"""Integer pixel arithmetic before and after the int8 model: what the sketch's pixels.cpp computes, byte for byte.

Before the model: 8-bit RGB becomes the model's int8 input, as in `CompactMIRNet.to_core`. After the model:
`CompactMIRNet.restore` for 8-bit colours: r = gain I + root gain sqrt(I), out_c = r_c + sum share_cd r_d + offset_c.

How `restore` works in integers: three tables of 256 entries, made from the scale and zero point of the model's output,
turn a code into gain, share (or root gain) or offset, times `one`. Bilinear enlarging by the side of a cell, s pixels,
uses 2 x 2 cells with integer weights that sum to grid**2, where grid is 2 s for even s and s for odd s. `one` is chosen
so that grid**2 * one = 2**16: all enlarged values have 16 fractional bits. Square roots come from a table, `ROOTS`,
with 3 fractional bits. r has 16 fractional bits, products have 32; the result is rounded once, at the end. Nothing
overflows: gain * I is below 2**30, root gain * root below 2**31 before and 2**28 after the shift, sums have 64 bits.

Departures from `restore`: gains are clipped to below 64 (a level of 4 is white then), shares and root gains to 12. The
error against floating point is 0.25 grey levels in the mean, as for rounding to 8 bits, and at most 1 in ordinary
pictures. That holds for cells of up to `LARGEST_CELL` pixels; for larger ones the tables would be too coarse.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mirnet_torch.cli import UserError
from mirnet_torch.compact import LOG_GAIN_SCALE

LARGEST_CELL = 5
LARGEST_SCALE = 0.1  # of the model's output, so that sums fit 32 bits
LARGEST_SHARE = 12  # of another colour, or of a root, so that products fit 32 bits
ROOT_BITS = 3  # fractional bits
ROOTS = np.array([math.isqrt(255 * level << 2 * ROOT_BITS + 2) + 1 >> 1 for level in range(256)])  # sqrt(255 * level)
INPUT_ZERO_POINT = -128  # the model's input: code = 8-bit level - 128, scale 1/255
CODES = np.arange(-128, 128)  # all int8 codes; entry code + 128 of a table belongs to `code`


@dataclass(frozen=True)
class HeadTables:
    """The meaning of every output code of the model. Entry code + 128 of each table belongs to the int8 `code`."""

    gain: np.ndarray  # exp(LOG_GAIN_SCALE * value) * one, the gain clipped to below 64
    share: np.ndarray  # value * one, the value clipped to 12; also for root gains
    offset: np.ndarray  # value * 255 * one, in levels


def head_tables(scale: float, zero_point: int, *, cell: int) -> HeadTables:
    """Make the int32 tables for a model with this output scale, zero point and side of a cell in pixels.

    Raises:
        UserError: the cells are too large or the scale is too coarse for this arithmetic.
    """
    if cell > LARGEST_CELL or scale >= LARGEST_SCALE:
        raise UserError(f"the sketch's arithmetic takes cells of at most {LARGEST_CELL}x{LARGEST_CELL} pixels and "
                        f"output scales below {LARGEST_SCALE}, not {cell}x{cell} and {scale:.3g}: train a "
                        "network with smaller cells and maps of a few units, or convert with --target litert")
    one = (1 << 16) / _grid(cell) ** 2
    value = np.float64(np.float32(scale)) * (CODES - zero_point)
    gain = np.minimum(np.exp(np.minimum(LOG_GAIN_SCALE * value, 10.0)) * one, np.ceil(64 * one) - 1)
    share = value.clip(-LARGEST_SHARE, LARGEST_SHARE) * one
    return HeadTables(*(np.rint(entries).astype(np.int32) for entries in (gain, share, value * 255 * one)))


def _grid(cell: int) -> int:
    """Return the number of steps from one cell centre to the next for which all pixel centres lie on steps."""
    return cell if cell % 2 else 2 * cell


def model_input(rgb: np.ndarray, *, cell: int) -> np.ndarray:
    """Turn an 8-bit picture (H, W, 3) into the model's input, int8 (H/s, W/s, 3*s*s), s being `cell`.

    Channel (c*s + y)*s + x of a cell is colour c of its pixel (y, x).
    """
    rows, columns = rgb.shape[0] // cell, rgb.shape[1] // cell
    cells = rgb.reshape(rows, cell, columns, cell, 3).transpose(0, 2, 4, 1, 3)
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
    cell = len(rgb) // len(maps)
    pixels = _enlarge(_enlarge(cells, cell, axis=0), cell, axis=1)  # (H, W, 15), 16 fractional bits
    gain, share, offset, root_gain = np.split(pixels, [3, 9, 12], axis=-1)
    raised = gain * rgb + (root_gain * ROOTS[rgb] >> ROOT_BITS)  # levels, 16 bits
    result = np.empty(rgb.shape, np.uint8)
    for channel in range(3):
        first, second = (other for other in range(3) if other != channel)
        total = ((raised[..., channel] + offset[..., channel] << 16)  # 32 bits
                 + share[..., 2 * channel] * raised[..., first] + share[..., 2 * channel + 1] * raised[..., second])
        result[..., channel] = np.clip(total + (1 << 31) >> 32, 0, 255)
    return result


def _enlarge(cells: np.ndarray, cell: int, *, axis: int) -> np.ndarray:
    """Enlarge along one axis, linearly between the centres of cells; all values are multiplied by the grid."""
    cells = np.moveaxis(cells, axis, 0)
    grid = _grid(cell)
    # Positions in half pixels; `before` is the last cell whose centre is not after that of the pixel.
    before, distance = np.divmod(2 * np.arange(len(cells) * cell) + 1 - cell, 2 * cell)
    weight = (distance * grid // (2 * cell)).reshape(-1, *[1] * (cells.ndim - 1))  # of the cell after it
    last = len(cells) - 1
    enlarged = (grid - weight) * cells[before.clip(0)] + weight * cells[(before + 1).clip(max=last)]
    return np.moveaxis(enlarged, 0, axis)
