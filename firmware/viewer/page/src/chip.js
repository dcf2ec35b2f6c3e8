// What the board computes, in the integers that it uses: the int8 model's input, and its output laid over a frame.
//
// A port of conversion/mirnet/pixels.py, whose docstrings explain the numbers of bits; a test compares every byte.

import {CELL, MAPS, boxFilter, factorsOf, gainOf, recolour, rollOffOf, rootGainOf, toCells} from "./pixels.js";
import {fromYuyv, toYuyv} from "./yuv422.js";

export const FRAME = {width: 160, height: 120};
const ROWS = FRAME.height / CELL, COLUMNS = FRAME.width / CELL;
const ONE_FACTOR = 65536 / CELL ** 2; // what 1 is in the tables; all enlarged factors have 16 fractional bits
const LARGEST_GAIN = Math.ceil(64 * ONE_FACTOR) - 1, LARGEST_ROOT_GAIN = 12;
const ROOT_BITS = 3;
const ROOTS = Int32Array.from({length: 256}, (_, level) => Math.floor(Math.sqrt(255 * level * 256)) + 1 >> 1);
const CODES = ROOTS.map((root) => (root + 4 >> ROOT_BITS) - 128);
const WHITE_BITS = 14, WHITE = (1 << WHITE_BITS) - 1, AMPLIFIED = 16;
export const STEPS = 8; // of exposure, in one EV

/**
 * Compute one frame as the board does and in floating point.
 *
 * @param {import("./network.js").Network} network
 * @param {{data: Uint8ClampedArray, width: number, height: number}} frame RGBA, 160x120
 * @param {number} exposure in EV, a multiple of 1/8
 * @returns {Promise<object>} pictures `float`, `int8` and `difference`, each pixel's times 16; the int8 model's `maps`;
 *     `mean` and `largest` difference in levels
 */
export async function computeFrame(network, frame, exposure) {
  const {width, height} = FRAME, float = blank(), int8 = blank(), difference = blank();
  const {cells} = toCells(boxFilter(frame, height, width), height, width);
  const values = factorsOf(await network.run(cells, ROWS, COLUMNS));
  recolour(frame.data, float.data, FRAME, {values, rows: ROWS, columns: COLUMNS, down: ROWS, across: COLUMNS}, {exposure});

  const {maps, scale, zeroPoint} = network.runAsTheBoard(modelInput(frame.data));
  applyMaps(frame.data, int8.data, maps, headTables(scale, zeroPoint), Math.round(exposure * STEPS));

  let sum = 0, largest = 0;
  for (let i = 0; i < 4 * width * height; i++) {
    const apart = i % 4 === 3 ? 0 : Math.abs(float.data[i] - int8.data[i]);
    difference.data[i] = i % 4 === 3 ? 255 : AMPLIFIED * apart;
    sum += apart;
    largest = Math.max(largest, apart);
  }
  return {float, int8, difference, maps, mean: sum / (3 * width * height), largest};
}

/** Crop the centre of a picture to the aspect of the board's frames, shrink it to their size, and give it their colours. */
export function frameOf({data, width, height}) {
  const wide = Math.max(Math.min(width, Math.round(height * FRAME.width / FRAME.height)), 1);
  const high = Math.max(Math.min(height, Math.round(width * FRAME.height / FRAME.width)), 1);
  const left = width - wide >> 1, top = height - high >> 1;
  const frame = blank(), cropped = new Uint8ClampedArray(4 * wide * high);
  for (let y = 0; y < high; y++) {
    const from = 4 * ((top + y) * width + left);
    cropped.set(data.subarray(from, from + 4 * wide), 4 * y * wide);
  }
  const small = boxFilter({data: cropped, width: wide, height: high}, FRAME.height, FRAME.width);
  for (let i = 0; i < FRAME.width * FRAME.height; i++) {
    for (let c = 0; c < 3; c++) frame.data[4 * i + c] = 255 * small[3 * i + c];
    frame.data[4 * i + 3] = 255;
  }
  frame.data.set(fromYuyv(toYuyv(frame.data)));
  return frame;
}

/** Turn a frame into the int8 model's input. */
function modelInput(data) {
  const input = new Int8Array(ROWS * COLUMNS * 3 * CELL ** 2);
  for (let y = 0; y < FRAME.height; y++) {
    for (let x = 0; x < FRAME.width; x++) {
      const cell = Math.floor(y / CELL) * COLUMNS + Math.floor(x / CELL), inside = (y % CELL) * CELL + x % CELL;
      for (let c = 0; c < 3; c++) {
        input[(3 * cell + c) * CELL ** 2 + inside] = CODES[data[4 * (y * FRAME.width + x) + c]];
      }
    }
  }
  return input;
}

/** The meaning of the model's codes; entry code + 128 belongs to a code. */
function headTables(scale, zeroPoint) {
  const table = (number) => Array.from({length: 256}, (_, i) => Math.round(number(scale * (i - 128 - zeroPoint))));
  return {
    gain: table((value) => Math.min(gainOf(value) * ONE_FACTOR, LARGEST_GAIN)),
    rootGain: table((value) => Math.min(rootGainOf(value), LARGEST_ROOT_GAIN) * ONE_FACTOR),
    rollOff: table((value) => rollOffOf(value) * ONE_FACTOR),
    scale: Math.round(scale / CELL ** 2 * 2 ** 34),
    zeroPoint,
  };
}

function applyMaps(data, target, maps, tables, exposure) {
  const k = Math.round(2 ** (exposure / STEPS / 2.2) * 16384);
  const factors = enlarged(integerFactors(maps, tables, k)), curve = [0, 0, 0];
  for (let pixel = 0; pixel < FRAME.width * FRAME.height; pixel++) {
    const i = 4 * pixel, at = MAPS * pixel;
    const gain = factors[at], root = factors[at + 1], rollOff = factors[at + 2];
    let light = 0, most = 0;
    for (let c = 0; c < 3; c++) { // u, with 16 fractional bits
      const level = data[i + c];
      curve[c] = gain * level + (root * ROOTS[level] >> ROOT_BITS);
      light = Math.max(light, level);
      most = Math.max(most, curve[c]);
    }
    const rise = (gain + root - 65536) * light;
    const divisor = Math.max((255 << 16) + (high(rollOff << 14, rise) << 2), most);
    const inverse = Math.floor(0xffffffff / (divisor >> 10));
    for (let c = 0; c < 3; c++) curve[c] = Math.floor((curve[c] >> 10) * inverse / 2 ** (32 - WHITE_BITS)); // r
    const fading = WHITE - Math.max(...curve) << 16;
    for (let c = 0; c < 3; c++) {
      const matrix = at + 3 + 3 * c;
      const sum = factors[matrix] * curve[0] + factors[matrix + 1] * curve[1] + factors[matrix + 2] * curve[2]
        + factors[at + 12 + c] * (k >> 1);
      const result = clip(curve[c] + high(fading, high(sum, tables.scale)), 0, WHITE);
      target[i + c] = result * 255 + (1 << WHITE_BITS - 1) >> WHITE_BITS;
    }
    target[i + 3] = 255;
  }
}

/** Turn codes into k gain, k root gain, roll-off, times ONE_FACTOR, then the matrix by rows and offsets, in codes. */
function integerFactors(maps, {gain, rootGain, rollOff, zeroPoint}, k) {
  const factors = new Int32Array(maps.length);
  const brighter = (number) => Math.floor((number * k + 8192) / 16384);
  for (let i = 0; i < maps.length; i += MAPS) {
    const [t0, t1, t2, s01, s02, s10, s12, s20, s21, ...offsets] = Array.from(
      maps.subarray(i + 3, i + MAPS), (code) => code - zeroPoint);
    factors.set([Math.min(brighter(gain[maps[i] + 128]), LARGEST_GAIN),
      Math.min(brighter(rootGain[maps[i + 1] + 128]), Math.round(LARGEST_ROOT_GAIN * ONE_FACTOR)),
      rollOff[maps[i + 2] + 128],
      t0 - s01 - s02, s01, s02, s10, t1 - s10 - s12, s12, s20, s21, t2 - s20 - s21, ...offsets], i);
  }
  return factors;
}

/** Enlarge (rows, columns, 15) to every pixel, times CELL ** 2. */
function enlarged(factors) {
  const across = places(FRAME.width, COLUMNS), down = places(FRAME.height, ROWS);
  const result = new Int32Array(MAPS * FRAME.width * FRAME.height), line = new Int32Array(MAPS * COLUMNS);
  let to = 0;
  for (const {low, high: next, weight} of down) {
    for (let i = 0; i < line.length; i++) {
      line[i] = (CELL - weight) * factors[low * line.length + i] + weight * factors[next * line.length + i];
    }
    for (const place of across) {
      for (let k = 0; k < MAPS; k++) {
        result[to++] = (CELL - place.weight) * line[MAPS * place.low + k] + place.weight * line[MAPS * place.high + k];
      }
    }
  }
  return result;
}

/** For each pixel the cells before and after it and, of CELL, the weight of the one after it. */
function places(pixels, cells) {
  return Array.from({length: pixels}, (_, pixel) => {
    const position = 2 * pixel + 1 - CELL, before = Math.floor(position / (2 * CELL)); // in half pixels
    const weight = Math.floor((position - 2 * CELL * before) / 2);
    return {low: Math.max(before, 0), high: Math.min(before + 1, cells - 1), weight};
  });
}

/** The high 32 bits of a signed product of numbers of 32 bits. */
function high(a, b) {
  const low = Math.floor((a & 0xffff) * b / 65536);
  return Math.floor(((a >> 16) * b + low) / 65536);
}

const blank = () => ({data: new Uint8ClampedArray(4 * FRAME.width * FRAME.height), ...FRAME});
const clip = (value, least, most) => Math.min(Math.max(value, least), most);
