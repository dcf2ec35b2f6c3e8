"""Integer pixel arithmetic before and after the int8 model: what the sketch's pixels.cpp computes, byte for byte.

Before the model: 8-bit RGB becomes the model's int8 input, as in `CompactMIRNet.to_core`. After the model:
`CompactMIRNet.factors` and `recolour` for 8-bit colours, whose docstrings have the formula and its symbols.

How they work in integers. Three tables of 256 entries, made from the scale and zero point of the model's output, turn
a code into a gain, root gain or roll-off, times `one`. Tints, shares and offsets stay codes, less the zero point.
Bilinear enlarging by the side of a cell, s pixels, uses 2 x 2 cells with integer weights that sum to grid**2, where
grid is 2 s for even s and s for odd s. `one` is chosen so that grid**2 * one = 2**16: enlarged table values have 16
fractional bits. Square roots come from a table, `ROOTS`, with 3 fractional bits, and the factor k of an exposure from
`BRIGHTER`, with 14.

A pixel has one curve and one division: u and the divisor are levels with 16 fractional bits, below 2**31, r has 14. The
colour change is a 3x3 matrix of r, since tint[c] r[c] + sum share[c, d] (r[d] - r[c]) has the diagonal
tint[c] - sum share[c, d]. Its sums stay below 2**31, and `HeadTables.scale` turns them from codes into values. Of this
product and of some others only the high 32 bits are used; a Cortex-M4 computes them in one instruction.

Departures from the formula: k gain is clipped to below 64 (a level of 4 is white then), k root gain to 12.
`tests/firmware/test_pixels.py` states the distance from floating point. It holds for cells of up to `LARGEST_CELL`
pixels; for larger ones the tables would be too coarse.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mirnet_torch import cli
from mirnet_torch.cli import UserError

LARGEST_CELL = 5
LARGEST_SCALE = 0.1  # of the model's output, so that sums fit 32 bits
LARGEST_ROOT_GAIN = 12  # so that products fit 32 bits
ROOT_BITS = 3  # fractional bits
ROOTS = np.array([math.isqrt(255 * level << 2 * ROOT_BITS + 2) + 1 >> 1 for level in range(256)])  # sqrt(255 * level)
INPUT_ZERO_POINT = -128  # the model's input: code = root of the level - 128, scale 1/255
INPUT_CODES = (ROOTS + (1 << ROOT_BITS - 1) >> ROOT_BITS) + INPUT_ZERO_POINT  # by level
CODES = np.arange(-128, 128)  # all int8 codes; entry code + 128 of a table belongs to `code`
EXPOSURE_STEPS = 8  # of exposure, in one EV
LARGEST_EXPOSURE = round(cli.LARGEST_EXPOSURE * EXPOSURE_STEPS)
BRIGHTER_BITS = 14
BRIGHTER = np.rint(2.0 ** (np.arange(-LARGEST_EXPOSURE, LARGEST_EXPOSURE + 1) / EXPOSURE_STEPS / 2.2)
                   * (1 << BRIGHTER_BITS)).astype(np.int64)  # k of every exposure
WHITE_BITS = 14
WHITE = (1 << WHITE_BITS) - 1  # full scale of a restored colour


@dataclass(frozen=True)
class HeadTables:
    """The meaning of every output code of the model. Entry code + 128 of a table belongs to the int8 `code`."""

    gain: np.ndarray  # times one, from one up to below 64
    root_gain: np.ndarray  # times one, from 0 to 12
    roll_off: np.ndarray  # times one, from 0 to one
    scale: int  # what tints, shares and two offsets of one code are worth: value / grid**2, with 34 fractional bits
    zero_point: int  # their code for 0


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
    gain = np.exp(np.minimum(np.logaddexp(0, 4 * value) / 2, 10.0))
    root_gain = np.minimum(np.logaddexp(0, 8 * value) / 8, LARGEST_ROOT_GAIN)
    tables = (np.minimum(gain * one, largest_gain(cell)), root_gain * one, one / (1 + np.exp(-16 * value)))
    gains, root_gains, roll_offs = (np.rint(entries).astype(np.int32) for entries in tables)
    return HeadTables(gains, root_gains, roll_offs, round(float(np.float32(scale)) / _grid(cell) ** 2 * 2 ** 34),
                      zero_point)


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
    gain, root_gain, roll_off, matrix, offset = np.split(pixels, [1, 2, 3, 12], axis=-1)

    levels = rgb.astype(np.int64)
    raised = gain * levels + (root_gain * ROOTS[rgb] >> ROOT_BITS)  # u, 16 fractional bits
    rise = (gain + root_gain - (1 << 16)) * levels.max(-1, keepdims=True)
    divisor = np.maximum((255 << 16) + ((roll_off << 14) * rise >> 32 << 2), raised.max(-1, keepdims=True))
    curve = (raised >> 10) * (0xFFFFFFFF // (divisor >> 10)) >> 32 - WHITE_BITS  # r

    sums = (matrix.reshape(*matrix.shape[:-1], 3, 3) * curve[..., None, :]).sum(-1)
    change = (sums + offset * (BRIGHTER[exposure + LARGEST_EXPOSURE] >> 1)) * tables.scale >> 32  # 16 fractional bits
    fading = WHITE - curve.max(-1, keepdims=True) << 16
    result = curve + (fading * change >> 32)
    return (result.clip(0, WHITE) * 255 + (1 << WHITE_BITS - 1) >> WHITE_BITS).astype(np.uint8)


def _factors(maps: np.ndarray, tables: HeadTables, cell: int, exposure: int) -> np.ndarray:
    """Return k gain, k root gain and roll-off, times one, then matrix by rows and offsets, in codes: (H/s, W/s, 15)."""
    def brighter(values: np.ndarray) -> np.ndarray:
        k = BRIGHTER[exposure + LARGEST_EXPOSURE]
        return values.astype(np.int64) * k + (1 << BRIGHTER_BITS - 1) >> BRIGHTER_BITS

    entries = maps.astype(np.intp) + 128
    gain = brighter(tables.gain[entries[..., 0]]).clip(max=largest_gain(cell))
    root_gain = brighter(tables.root_gain[entries[..., 1]]).clip(max=round(LARGEST_ROOT_GAIN * one_of(cell)))
    tint, share, offset = np.split(maps[..., 3:].astype(np.int64) - tables.zero_point, [3, 9], axis=-1)
    share = share.reshape(*share.shape[:-1], 3, 2)
    own = tint - share.sum(-1)
    matrix = [own[..., 0], share[..., 0, 0], share[..., 0, 1],
              share[..., 1, 0], own[..., 1], share[..., 1, 1],
              share[..., 2, 0], share[..., 2, 1], own[..., 2]]
    return np.stack([gain, root_gain, tables.roll_off[entries[..., 2]], *matrix, *np.moveaxis(offset, -1, 0)], -1)


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
