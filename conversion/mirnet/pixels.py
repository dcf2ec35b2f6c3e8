"""Integer pixel arithmetic before and after the int8 model: what the sketch's pixels.cpp computes, byte for byte.

Before the model: 8-bit RGB becomes the model's int8 input, as in `CompactMIRNet.to_core`. After the model:
`CompactMIRNet.factors` and `recolour` for 8-bit colours, whose docstrings have the formula and its symbols.

How they work in integers. Two tables of 256 entries, made from the scale and zero point of the model's output, turn a
code into a gain or a plain value, times `one`. Bilinear enlarging by the side of a cell, s pixels, uses 2 x 2 cells with
integer weights that sum to grid**2, where grid is 2 s for even s and s for odd s. `one` is chosen so that
grid**2 * one = 2**16: all enlarged values have 16 fractional bits. Square roots come from a table, `ROOTS`, with 3
fractional bits, and the factor k of an exposure from `BRIGHTER`, with 14.

A pixel has one curve and one division: u and the divisor are levels with 16 fractional bits, below 2**31, r has 31. The
colour change is a 3x3 matrix of r, since tint[c] r[c] + sum share[c, d] (r[d] - r[c]) has the diagonal
tint[c] - sum share[c, d]. Of every product the high 32 bits count, which a Cortex-M4 computes in one instruction.

Departures from the formula: k gain is clipped to below 64 (a level of 4 is white then), k root gain, tints, shares
and offsets to 12. `tests/firmware/test_pixels.py` states the distance from floating point. It holds for cells of up to
`LARGEST_CELL` pixels; for larger ones the tables would be too coarse.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mirnet_torch.cli import UserError
from mirnet_torch.compact import LOG_GAIN_SCALE

LARGEST_CELL = 5
LARGEST_SCALE = 0.1  # of the model's output, so that sums fit 32 bits
LARGEST_VALUE = 12  # of a root gain, tint, share or offset, so that products fit 32 bits
ROOT_BITS = 3  # fractional bits
ROOTS = np.array([math.isqrt(255 * level << 2 * ROOT_BITS + 2) + 1 >> 1 for level in range(256)])  # sqrt(255 * level)
INPUT_ZERO_POINT = -128  # the model's input: code = root of the level - 128, scale 1/255
INPUT_CODES = (ROOTS + (1 << ROOT_BITS - 1) >> ROOT_BITS) + INPUT_ZERO_POINT  # by level
CODES = np.arange(-128, 128)  # all int8 codes; entry code + 128 of a table belongs to `code`
EXPOSURE_STEPS = 8  # of exposure, in one EV
LARGEST_EXPOSURE = 4 * EXPOSURE_STEPS
BRIGHTER_BITS = 14
BRIGHTER = np.rint(2.0 ** (np.arange(-LARGEST_EXPOSURE, LARGEST_EXPOSURE + 1) / EXPOSURE_STEPS / 2.2)
                   * (1 << BRIGHTER_BITS)).astype(np.int64)  # k of every exposure
ONE = (1 << 31) - 1  # of a raised colour
WHITE = (1 << 15) - 1  # of a restored one


@dataclass(frozen=True)
class HeadTables:
    """The meaning of every output code of the model. Entry code + 128 of each table belongs to the int8 `code`."""

    gain: np.ndarray  # exp(LOG_GAIN_SCALE * value) * one, from one up to below 64
    value: np.ndarray  # value * one, from -12 to 12


def head_tables(scale: float, zero_point: int, *, cell: int) -> HeadTables:
    """Make the int32 tables for a model with this output scale, zero point and side of a cell in pixels.

    Raises:
        UserError: the cells are too large or the scale is too coarse for this arithmetic.
    """
    if cell > LARGEST_CELL or scale >= LARGEST_SCALE:
        raise UserError(f"the sketch's arithmetic takes cells of at most {LARGEST_CELL}x{LARGEST_CELL} pixels and "
                        f"output scales below {LARGEST_SCALE}, not {cell}x{cell} and {scale:.3g}: train a "
                        "network with smaller cells and maps of a few units, or convert with --target litert")
    one = one_of(cell)
    value = np.float64(np.float32(scale)) * (CODES - zero_point)
    gain = np.minimum(np.exp(np.clip(LOG_GAIN_SCALE * value, 0.0, 10.0)) * one, largest_gain(cell))
    return HeadTables(*(np.rint(entries).astype(np.int32)
                        for entries in (gain, value.clip(-LARGEST_VALUE, LARGEST_VALUE) * one)))


def one_of(cell: int) -> float:
    """Return what 1 is in the tables."""
    return (1 << 16) / _grid(cell) ** 2


def largest_gain(cell: int) -> int:
    """Return the largest gain, in the units of the tables."""
    return math.ceil(64 * one_of(cell)) - 1


def _grid(cell: int) -> int:
    """Return the number of steps from one cell centre to the next for which all pixel centres lie on steps."""
    return cell if cell % 2 else 2 * cell


def model_input(rgb: np.ndarray, *, cell: int) -> np.ndarray:
    """Turn an 8-bit picture (H, W, 3) into the model's input, int8 (H/s, W/s, 3*s*s), s being `cell`.

    Channel (c*s + y)*s + x of a cell is colour c of its pixel (y, x).
    """
    rows, columns = rgb.shape[0] // cell, rgb.shape[1] // cell
    cells = rgb.reshape(rows, cell, columns, cell, 3).transpose(0, 2, 4, 1, 3)
    return INPUT_CODES[cells].astype(np.int8).reshape(rows, columns, -1)


def apply_maps(rgb: np.ndarray, maps: np.ndarray, tables: HeadTables, *, exposure: int = 0) -> np.ndarray:
    """Return the restored picture.

    Args:
        rgb: the dark picture, uint8 (H, W, 3).
        maps: the model's output for it, int8 (H/s, W/s, 15): log gain, root gain, roll-off, 3 tints, 6 shares
            01 02 10 12 20 21, 3 offsets.
        tables: of the model, see `head_tables`.
        exposure: in steps of 1/8 EV, from -32 to 32.

    Returns:
        uint8 (H, W, 3).
    """
    cell = len(rgb) // len(maps)
    pixels = _enlarge(_enlarge(_factors(maps, tables, cell, exposure), cell, axis=0), cell, axis=1)
    gain, root_gain, roll_off, matrix, offset = np.split(pixels, [1, 2, 3, 12], axis=-1)  # 16 fractional bits

    levels = rgb.astype(np.int64)
    raised = gain * levels + (root_gain * ROOTS[rgb] >> ROOT_BITS)  # u, 16
    rise = (gain + root_gain - (1 << 16)) * levels.max(-1, keepdims=True)  # 16
    divisor = np.maximum((255 << 16) + ((roll_off << 14) * rise >> 32 << 2), raised.max(-1, keepdims=True))  # 16
    curve = (raised >> 10) * (0xFFFFFFFF // (divisor >> 10)) >> 1  # r, 31

    products = matrix.reshape(*matrix.shape[:-1], 3, 3) * curve[..., None, :] >> 32
    change = products.sum(-1) + (offset >> 1)  # 15
    fading = ONE - curve.max(-1, keepdims=True)  # 31
    result = (curve >> 16) + (fading * (2 * change) >> 32)  # 15
    return (result.clip(0, WHITE) * 255 + (1 << 14) >> 15).astype(np.uint8)


def _factors(maps: np.ndarray, tables: HeadTables, cell: int, exposure: int) -> np.ndarray:
    """Turn codes into k gain, k root gain, roll-off, the matrix by rows, k offsets: int64 (H/s, W/s, 15), times one."""
    def brighter(values: np.ndarray) -> np.ndarray:
        k = BRIGHTER[exposure + LARGEST_EXPOSURE]
        return values * k + (1 << BRIGHTER_BITS - 1) >> BRIGHTER_BITS

    codes = maps.astype(np.intp) + 128
    value = tables.value.astype(np.int64)[codes]
    gain = brighter(tables.gain.astype(np.int64)[codes[..., :1]]).clip(max=largest_gain(cell))
    one = one_of(cell)
    root_gain = brighter(value[..., 1:2].clip(min=0)).clip(max=round(LARGEST_VALUE * one))
    roll_off = (value[..., 2:3] + round(one / 2)).clip(0, round(one))
    tint, share, offset = np.split(value[..., 3:], [3, 9], axis=-1)
    matrix = np.stack([tint[..., 0] - share[..., 0] - share[..., 1], share[..., 0], share[..., 1],
                       share[..., 2], tint[..., 1] - share[..., 2] - share[..., 3], share[..., 3],
                       share[..., 4], share[..., 5], tint[..., 2] - share[..., 4] - share[..., 5]], -1)
    return np.concatenate([gain, root_gain, roll_off, matrix, brighter(offset)], -1)


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
