// What surrounds the network's core, in floating point: the copy that it sees, and its maps laid over the picture.
//
// The arithmetic is that of mirnet_torch/restoration/full_size.py and compact.py, whose docstrings have the formulas. Pictures are
// RGBA, 8 bits, as a canvas has them; alpha is copied.

import {Fault} from "./fault.js";

export const CELL = 5; // pixels along the side of a cell
export const MAPS = 15;
const COPY_PIXELS = 480 * 360;
const LIGHT = Float64Array.from({length: 256}, (_, level) => level / 255);
const ROOTS = LIGHT.map(Math.sqrt);

/** Return {rows, columns} of the copy of a picture: 172,800 pixels in its aspect, or its own size if less. */
export function copySize(height, width, pixels = COPY_PIXELS) {
  const scale = Math.min(Math.sqrt(pixels / (height * width)), 1);
  return {rows: Math.max(rint(height * scale), 1), columns: Math.max(rint(width * scale), 1)};
}

/**
 * Shrink a picture: every pixel of the result is the mean of the area that it covers.
 *
 * @param {{data: Uint8ClampedArray, width: number, height: number}} picture RGBA
 * @param {number} rows at most the picture's height
 * @param {number} columns at most the picture's width
 * @returns {Float32Array} (rows, columns, 3), from 0 to 1
 */
export function boxFilter({data, width, height}, rows, columns) {
  const result = new Float32Array(rows * columns * 3);
  const sums = new Float64Array(3 * (width + 1)); // of all pixels of a row of the copy before a column
  const line = new Float64Array(3 * width);
  const scale = rows * columns / (height * width * 255);
  for (let row = 0; row < rows; row++) {
    const top = row * height / rows, bottom = (row + 1) * height / rows;
    line.fill(0);
    for (let y = Math.floor(top); y < Math.min(Math.ceil(bottom), height); y++) {
      const covered = Math.min(y + 1, bottom) - Math.max(y, top);
      for (let x = 0, from = 4 * y * width; x < 3 * width; x += 3, from += 4) {
        line[x] += covered * data[from];
        line[x + 1] += covered * data[from + 1];
        line[x + 2] += covered * data[from + 2];
      }
    }
    for (let i = 0; i < 3 * width; i++) sums[i + 3] = sums[i] + line[i];
    for (let column = 0, to = 3 * row * columns; column < columns; column++, to += 3) {
      const left = column * width / columns, right = (column + 1) * width / columns;
      for (let c = 0; c < 3; c++) {
        result[to + c] = (at(sums, line, right, c) - at(sums, line, left, c)) * scale;
      }
    }
  }
  return result;
}

/** Return the sum of channel c of all pixels before a position, of whose last pixel a part may count. */
function at(sums, line, position, c) {
  const whole = Math.floor(position), rest = position - whole;
  return sums[3 * whole + c] + (rest ? rest * line[3 * whole + c] : 0);
}

/**
 * Turn a copy into the core's input: roots, in cells; the last row and column are repeated to a multiple of two cells.
 *
 * @param {Float32Array} copy (rows, columns, 3), from 0 to 1
 * @returns {{cells: Float32Array, rows: number, columns: number}} cells (rows, columns, 75); channel (5 c + y) 5 + x is
 *     colour c of the cell's pixel (y, x)
 */
export function toCells(copy, rows, columns) {
  const down = 2 * Math.ceil(rows / (2 * CELL)), across = 2 * Math.ceil(columns / (2 * CELL));
  const area = CELL * CELL;
  const cells = new Float32Array(down * across * 3 * area);
  for (let y = 0; y < down * CELL; y++) {
    for (let x = 0; x < across * CELL; x++) {
      const from = 3 * (Math.min(y, rows - 1) * columns + Math.min(x, columns - 1));
      const cell = Math.floor(y / CELL) * across + Math.floor(x / CELL);
      const to = 3 * area * cell + (y % CELL) * CELL + x % CELL;
      for (let c = 0; c < 3; c++) cells[to + area * c] = Math.sqrt(Math.max(copy[from + c], 0));
    }
  }
  return {cells, rows: down, columns: across};
}

/** What the first three maps stand for, as in `CompactMIRNet.factors`. */
export const gainOf = (map) => Math.exp(softplus(4 * map) / 2);
export const rootGainOf = (map) => softplus(8 * map) / 8;
export const rollOffOf = (map) => 1 / (1 + Math.exp(-16 * map));

function softplus(value) {
  return Math.max(value, 0) + Math.log1p(Math.exp(-Math.abs(value)));
}

/**
 * Turn maps into factors, position by position, and tints and shares into the matrix that they are.
 *
 * @param {Float32Array} maps (rows, columns, 15)
 * @returns {Float32Array} the same shape: gain, root gain, roll-off, matrix by rows, offsets
 * @throws {Fault} a value is not finite
 */
export function factorsOf(maps) {
  const factors = new Float32Array(maps.length);
  for (let i = 0; i < maps.length; i += MAPS) {
    factors[i] = gainOf(maps[i]);
    factors[i + 1] = rootGainOf(maps[i + 1]);
    factors[i + 2] = rollOffOf(maps[i + 2]);
    for (let c = 0; c < 3; c++) { // a row of the matrix: its tint, and the shares of the two other colours
      const first = maps[i + 6 + 2 * c], second = maps[i + 7 + 2 * c], row = i + 3 + 3 * c;
      factors[row + c] = maps[i + 3 + c] - first - second;
      factors[row + (c === 0 ? 1 : 0)] = first;
      factors[row + (c === 2 ? 1 : 2)] = second;
      factors[i + 12 + c] = maps[i + 12 + c] / 2;
    }
  }
  if (!factors.every(Number.isFinite)) throw new Fault("The network finds no answer for this picture: choose another.");
  return factors;
}

/**
 * The factors of a picture, for rows of any version of it: whole or shrunk, in any exposure.
 *
 * @typedef {object} Factors
 * @property {Float32Array} values (rows, columns, 15), see `factorsOf`
 * @property {number} rows
 * @property {number} columns
 * @property {number} down cells along the height of the picture, less than `rows` where it was padded
 * @property {number} across the same along the width
 */

/**
 * Apply factors to some rows of a picture.
 *
 * @param {Uint8ClampedArray} source RGBA (last - first, width)
 * @param {Uint8ClampedArray} target the same size
 * @param {{width: number, height: number}} size of the whole picture
 * @param {Factors} factors
 * @param {{exposure?: number, grey?: boolean, first?: number, last?: number}} options exposure in EV; grey: the result is
 *     the luma (BT.601, as Pillow computes it); rows from `first` to before `last`
 */
export function recolour(source, target, {width, height}, factors, {exposure = 0, grey = false, first = 0,
  last = height} = {}) {
  const brighter = 2 ** (exposure / 2.2);
  const {values, rows, columns} = factors;
  const near = new Float64Array(columns * MAPS);
  const [stepDown, stepAcross] = [factors.down / height, factors.across / width];
  for (let y = first; y < last; y++) {
    const row = between((y + 0.5) * stepDown - 0.5, rows);
    const upper = row.before * columns * MAPS, lower = Math.min(row.before + 1, rows - 1) * columns * MAPS;
    for (let i = 0; i < columns * MAPS; i++) {
      near[i] = values[upper + i] + row.weight * (values[lower + i] - values[upper + i]);
    }
    for (let i = 0; i < columns * MAPS; i += MAPS) {
      for (const k of [0, 1, 12, 13, 14]) near[i + k] *= brighter;
    }
    recolourRow(source, target, 4 * (y - first) * width, width, near, columns, stepAcross, grey);
  }
}

function recolourRow(source, target, start, width, near, columns, step, grey) {
  for (let x = 0, i = start; x < width;) {
    const before = between((x + 0.5) * step - 0.5, columns).before;
    const a = before * MAPS, b = Math.min(before + 1, columns - 1) * MAPS;
    const a0 = near[a], a1 = near[a + 1], a2 = near[a + 2], a3 = near[a + 3], a4 = near[a + 4], a5 = near[a + 5],
      a6 = near[a + 6], a7 = near[a + 7], a8 = near[a + 8], a9 = near[a + 9], a10 = near[a + 10], a11 = near[a + 11],
      a12 = near[a + 12], a13 = near[a + 13], a14 = near[a + 14];
    const d0 = near[b] - a0, d1 = near[b + 1] - a1, d2 = near[b + 2] - a2, d3 = near[b + 3] - a3,
      d4 = near[b + 4] - a4, d5 = near[b + 5] - a5, d6 = near[b + 6] - a6, d7 = near[b + 7] - a7,
      d8 = near[b + 8] - a8, d9 = near[b + 9] - a9, d10 = near[b + 10] - a10, d11 = near[b + 11] - a11,
      d12 = near[b + 12] - a12, d13 = near[b + 13] - a13, d14 = near[b + 14] - a14;
    // All pixels up to the centre of the next cell lie between the same two centres.
    for (; x < width; x++, i += 4) {
      const w = Math.max((x + 0.5) * step - 0.5, 0) - before;
      if (w >= 1 && before < columns - 1) break;
      const v = before < columns - 1 ? w : 0;
      const gain = a0 + v * d0, root = a1 + v * d1;
      const s0 = source[i], s1 = source[i + 1], s2 = source[i + 2];
      let r = gain * LIGHT[s0] + root * ROOTS[s0], g = gain * LIGHT[s1] + root * ROOTS[s1],
        l = gain * LIGHT[s2] + root * ROOTS[s2];
      let most = r > g ? r : g;
      most = l > most ? l : most;
      const light = LIGHT[s0 > s1 ? (s0 > s2 ? s0 : s2) : (s1 > s2 ? s1 : s2)];
      const bound = 1 + (a2 + v * d2) * (gain + root - 1) * light;
      const scale = 1 / (bound > most ? bound : most);
      r *= scale;
      g *= scale;
      l *= scale;
      const fading = 1 - most * scale;
      target[i] = 255 * (r + fading * ((a3 + v * d3) * r + (a4 + v * d4) * g + (a5 + v * d5) * l + a12 + v * d12));
      target[i + 1] = 255 * (g + fading * ((a6 + v * d6) * r + (a7 + v * d7) * g + (a8 + v * d8) * l + a13 + v * d13));
      target[i + 2] = 255 * (l + fading * ((a9 + v * d9) * r + (a10 + v * d10) * g + (a11 + v * d11) * l + a14
        + v * d14));
      target[i + 3] = source[i + 3];
      if (grey) {
        const luma = 19595 * target[i] + 38470 * target[i + 1] + 7471 * target[i + 2] + 0x8000 >> 16;
        target[i] = target[i + 1] = target[i + 2] = luma;
      }
    }
  }
}

/** Return the index before a position among n values and the weight of the one after it; outside, the outermost holds. */
function between(position, n) {
  const clamped = Math.min(Math.max(position, 0), n - 1), before = Math.floor(clamped);
  return {before, weight: clamped - before};
}

/** Round to the nearest, halves to even, as Python does. */
function rint(value) {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}
