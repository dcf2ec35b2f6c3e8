// The camera's format, YUV 4:2:2 in the order Y U Y V, from and to RGBA, in the integers of the sketch's frame_format.h and
// of ../../yuv422.py.

/** Turn RGBA, an even number of pixels, into the camera's format; two pixels share the mean of their chroma. */
export function toYuyv(rgba) {
  const bytes = new Uint8ClampedArray(rgba.length / 2);
  for (let i = 0, from = 0; from < rgba.length; i += 4, from += 8) {
    const [red, green, blue, , red1, green1, blue1] = rgba.subarray(from, from + 8);
    const reds = red + red1, greens = green + green1, blues = blue + blue1;
    bytes[i] = 77 * red + 150 * green + 29 * blue + 128 >> 8;
    bytes[i + 1] = 128 + (-43 * reds - 85 * greens + 128 * blues + 256 >> 9);
    bytes[i + 2] = 77 * red1 + 150 * green1 + 29 * blue1 + 128 >> 8;
    bytes[i + 3] = 128 + (128 * reds - 107 * greens - 21 * blues + 256 >> 9);
  }
  return bytes;
}

/** Turn the camera's format into RGBA. */
export function fromYuyv(bytes) {
  const rgba = new Uint8ClampedArray(2 * bytes.length);
  for (let i = 0; i < bytes.length / 2; i++) {
    const pair = 4 * (i >> 1), light = bytes[2 * i], u = bytes[pair + 1] - 128, v = bytes[pair + 3] - 128;
    rgba.set([light + (359 * v + 128 >> 8), light + (-88 * u - 183 * v + 128 >> 8), light + (454 * u + 128 >> 8), 255], 4 * i);
  }
  return rgba;
}
