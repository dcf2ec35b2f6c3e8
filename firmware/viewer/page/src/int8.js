// Run an int8 .tflite model as a microcontroller does: the operators of a compact network in TensorFlow Lite's reference
// arithmetic, so that every byte is the board's. A browser's runtimes round otherwise, by up to some steps.

import {graphOf} from "./tflite.js";

const SAME = 0; // Padding
const RELU = 1, RELU_6 = 3; // ActivationFunctionType
const SUM_BITS = 20; // by which ADD raises its inputs

/**
 * Open a model.
 *
 * @param {Uint8Array} file an int8 model with one input and one output, of the operators below
 * @returns {{run: (input: Int8Array) => Int8Array, scale: number, zeroPoint: number}} from input codes to output codes,
 *     and the meaning of these
 * @throws {Error} the model has another operator
 */
export function openInt8(file) {
  const {operators, tensors, input, output} = graphOf(file);
  const steps = operators.map(({code, inputs, output: made, options}) => {
    const open = {0: add, 1: averagePool, 2: concatenate, 3: convolve, 17: maximumPool, 18: multiply, 23: resize}[code];
    if (!open) throw new Error(`the model has an operator (${code}) that this page does not compute`);
    const given = inputs.map((number) => tensors[number]);
    return {run: open(given, tensors[made], options), inputs, made};
  });
  const {scale, zeroPoint} = tensors[output];
  const run = (codes) => {
    const values = tensors.map(({data}) => data);
    values[input] = codes;
    for (const {run: step, inputs, made} of steps) values[made] = step(...inputs.map((number) => values[number]));
    return values[output];
  };
  return {run, scale, zeroPoint};
}

function convolve([image, filter, bias], made, options) {
  const [, rows, columns, depth] = image.shape, [channels, height, width] = filter.shape;
  const [, outRows, outColumns] = made.shape;
  const [strideX, strideY, activation] = [options.int(1, 1), options.int(2, 1), options.byte(3)];
  const [top, left] = options.byte(0) === SAME
    ? [padding(rows, outRows, strideY, height), padding(columns, outColumns, strideX, width)] : [0, 0];
  const rescalings = Array.from({length: channels}, (_, c) =>
    factor(image.scale * (filter.scales[c] ?? filter.scale) / made.scale));
  const {least, most} = range(activation, made), zero = image.zeroPoint;
  return (codes) => {
    const result = new Int8Array(outRows * outColumns * channels);
    const window = new Int32Array(height * width * depth); // less its zero point
    const weights = filter.data;
    for (let y = 0, to = 0; y < outRows; y++) {
      for (let x = 0; x < outColumns; x++) {
        window.fill(0);
        for (let v = 0; v < height; v++) {
          const row = y * strideY - top + v;
          if (row < 0 || row >= rows) continue;
          for (let u = 0; u < width; u++) {
            const column = x * strideX - left + u;
            if (column < 0 || column >= columns) continue;
            const from = (row * columns + column) * depth, at = (v * width + u) * depth;
            for (let k = 0; k < depth; k++) window[at + k] = codes[from + k] - zero;
          }
        }
        for (let c = 0, w = 0; c < channels; c++) {
          let sum = bias ? bias.data[c] : 0;
          for (let k = 0; k < window.length; k++) sum += window[k] * weights[w++];
          result[to++] = clip(rescaled(sum, rescalings[c]) + made.zeroPoint, least, most);
        }
      }
    }
    return result;
  };
}

function add([first, second], made, options) {
  const twice = 2 * Math.max(first.scale, second.scale);
  const [ofFirst, ofSecond] = [first, second].map(({scale}) => factor(scale / twice));
  const ofSum = factor(twice / (2 ** SUM_BITS * made.scale)), {least, most} = range(options.byte(0), made);
  return elementwise([first, second], made, (a, b) => {
    const sum = rescaled((a - first.zeroPoint) * 2 ** SUM_BITS, ofFirst)
      + rescaled((b - second.zeroPoint) * 2 ** SUM_BITS, ofSecond);
    return clip(rescaled(sum, ofSum) + made.zeroPoint, least, most);
  });
}

function multiply([first, second], made, options) {
  const by = factor(first.scale * second.scale / made.scale), {least, most} = range(options.byte(0), made);
  return elementwise([first, second], made, (a, b) =>
    clip(rescaled((a - first.zeroPoint) * (b - second.zeroPoint), by) + made.zeroPoint, least, most));
}

/** Combine two tensors position by position; a side of 1 is repeated. */
function elementwise(tensors, made, combine) {
  const [, rows, columns, channels] = made.shape;
  const strides = tensors.map(({shape: [, r, c, d]}) => [r > 1 ? c * d : 0, c > 1 ? d : 0, d > 1 ? 1 : 0]);
  return (...codes) => {
    const result = new Int8Array(rows * columns * channels);
    for (let y = 0, to = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++) {
        const [first, second] = strides.map(([down, across]) => y * down + x * across);
        for (let k = 0; k < channels; k++) {
          result[to++] = combine(codes[0][first + k * strides[0][2]], codes[1][second + k * strides[1][2]]);
        }
      }
    }
    return result;
  };
}

const averagePool = ([image], made, options) => pool(image, made, options, (values) => {
  const sum = values.reduce((total, value) => total + value, 0), half = Math.trunc(values.length / 2);
  return Math.trunc((sum + (sum > 0 ? half : -half)) / values.length);
});
const maximumPool = ([image], made, options) => pool(image, made, options, (values) => Math.max(...values));

function pool({shape: [, rows, columns, channels]}, made, options, reduce) {
  const [strideX, strideY, width, height] = [1, 2, 3, 4].map((id) => options.int(id, 1));
  const [, outRows, outColumns] = made.shape, {least, most} = range(options.byte(5), made);
  const [top, left] = options.byte(0) === SAME
    ? [padding(rows, outRows, strideY, height), padding(columns, outColumns, strideX, width)] : [0, 0];
  return (codes) => {
    const result = new Int8Array(outRows * outColumns * channels);
    for (let y = 0, to = 0; y < outRows; y++) {
      for (let x = 0; x < outColumns; x++) {
        const [y0, x0] = [y * strideY - top, x * strideX - left];
        for (let k = 0; k < channels; k++) {
          const values = [];
          for (let row = Math.max(y0, 0); row < Math.min(y0 + height, rows); row++) {
            for (let column = Math.max(x0, 0); column < Math.min(x0 + width, columns); column++) {
              values.push(codes[(row * columns + column) * channels + k]);
            }
          }
          result[to++] = clip(reduce(values), least, most);
        }
      }
    }
    return result;
  };
}

function concatenate(parts, made) {
  if (parts.some(({scale, zeroPoint}) => scale !== made.scale || zeroPoint !== made.zeroPoint)) {
    throw new Error("the model joins tensors of different scales");
  }
  const depths = parts.map(({shape}) => shape[3]), positions = made.shape[1] * made.shape[2], depth = made.shape[3];
  return (...codes) => {
    const result = new Int8Array(positions * depth);
    for (let position = 0, to = 0; position < positions; position++) {
      codes.forEach((part, i) => {
        result.set(part.subarray(position * depths[i], (position + 1) * depths[i]), to);
        to += depths[i];
      });
    }
    return result;
  };
}

/** Enlarge bilinearly with weights of 10 bits. */
function resize([{shape: [, rows, columns, channels]}], made, options) {
  const [, outRows, outColumns] = made.shape, halfPixels = options.byte(3);
  if (options.byte(2)) throw new Error("the model aligns corners when it resizes");
  const places = (from, to) => {
    const scale = Math.trunc((1024 * from + Math.trunc(to / 2)) / to);
    return Array.from({length: to}, (_, i) => {
      const at = i * scale + (halfPixels ? Math.trunc(scale / 2) - 512 : 0);
      const low = Math.max(Math.trunc(at / 1024), 0), high = Math.min(Math.trunc((at + 1023) / 1024), from - 1);
      return {low, high, weight: at - 1024 * low};
    });
  };
  const down = places(rows, outRows), across = places(columns, outColumns);
  return (codes) => {
    const result = new Int8Array(outRows * outColumns * channels);
    let to = 0;
    for (const {low: y0, high: y1, weight: v} of down) {
      for (const {low: x0, high: x1, weight: u} of across) {
        const corners = [[y0, x0], [y0, x1], [y1, x0], [y1, x1]].map(([y, x]) => (y * columns + x) * channels);
        const weights = [(1024 - v) * (1024 - u), (1024 - v) * u, v * (1024 - u), v * u];
        for (let k = 0; k < channels; k++) {
          const sum = corners.reduce((total, at, i) => total + weights[i] * codes[at + k], 0);
          result[to++] = Math.trunc((sum + (sum > 0 ? 524288 : -524288)) / 1048576);
        }
      }
    }
    return result;
  };
}

/** Codes that an activation function allows. */
function range(activation, {scale, zeroPoint}) {
  const code = (value) => zeroPoint + Math.round(value / scale);
  return {
    least: activation === RELU || activation === RELU_6 ? Math.max(code(0), -128) : -128,
    most: activation === RELU_6 ? Math.min(code(6), 127) : 127,
  };
}

function padding(size, made, stride, window) {
  return Math.max(Math.trunc(((made - 1) * stride + window - size) / 2), 0);
}

/** A positive factor as TensorFlow Lite holds it: multiplier / 2 ** 31 * 2 ** shift, the multiplier of 31 bits. */
function factor(number) {
  let shift = Math.floor(Math.log2(number)) + 1;
  if (number / 2 ** shift >= 1) shift++;
  if (number / 2 ** shift < 0.5) shift--;
  let multiplier = Math.round(number / 2 ** shift * 2 ** 31);
  if (multiplier === 2 ** 31) [multiplier, shift] = [2 ** 30, shift + 1];
  return {multiplier, shift, high: Math.floor(multiplier / 65536), low: multiplier % 65536};
}

/** Multiply a number of 32 bits by a factor. TensorFlow Lite rounds twice, at 31 bits and after the shift. */
function rescaled(number, {high, low, shift}) {
  const raised = shift > 0 ? number * 2 ** shift : number, size = Math.abs(raised);
  // size * multiplier + half, divided by 2 ** 31; the product has up to 62 bits, so it is taken in parts.
  const upper = size * high, lower = size * low + (raised < 0 ? 2 ** 30 - 1 : 2 ** 30);
  const whole = Math.floor(upper / 32768);
  const rounded = whole + Math.floor(((upper - whole * 32768) * 65536 + lower) / 2 ** 31);
  const result = raised < 0 ? -rounded : rounded;
  if (shift >= 0) return result;
  const by = 2 ** -shift, quotient = Math.floor(result / by), rest = result - quotient * by;
  return quotient + (rest > Math.floor((by - 1) / 2) + (result < 0 ? 1 : 0) ? 1 : 0);
}

const clip = (value, least, most) => Math.min(Math.max(value, least), most);
