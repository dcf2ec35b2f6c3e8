// Open, enhance and save a photograph. It runs in the worker.

import {boxFilter, copySize, factorsOf, recolour, toCells, CELL} from "./pixels.js";
import {Fault} from "./fault.js";
import {orientationOf, readMetadata, withMetadata, withoutExif} from "./metadata.js";

export const MOST_PIXELS = 100e6; // in Chromium it takes 9 bytes of memory for each to open one, and 14 to 18 to save it
const SCREEN_PIXELS = 2e6; // of the picture on the page, which follows the slider
const STRIP_PIXELS = 4e6; // recoloured at once for a file
const QUALITY = 0.95; // of JPEG and WebP

/** Run the core on a copy of a picture and return its factors, for `recolour`. */
export async function factorsFor(network, picture, pixels) {
  const copy = copySize(picture.height, picture.width, pixels);
  const {cells, rows, columns} = toCells(boxFilter(picture, copy.rows, copy.columns), copy.rows, copy.columns);
  const values = factorsOf(await network.run(cells, rows, columns));
  return {values, rows, columns, down: copy.rows / CELL, across: copy.columns / CELL};
}

export class Photograph {
  /** Decode a file. @throws {Fault} it is no picture that can be read */
  static async open(file) {
    const metadata = await readMetadata(new Uint8Array(await file.arrayBuffer()));
    if (!metadata) throw new Fault(`${file.name} is not a picture that can be read: choose a JPEG, PNG or WebP file.`);
    const {width, height} = metadata;
    if (width * height > MOST_PIXELS) {
      throw new Fault(`${file.name} has ${Math.round(width * height / 1e6)} megapixels. This page takes at most `
        + `${MOST_PIXELS / 1e6}: make it smaller first.`);
    }
    const photograph = new Photograph();
    try {
      // Values as they are in the file; the profile goes into the result.
      const bitmap = await createImageBitmap(withoutExif(file, metadata),
        {colorSpaceConversion: "none", premultiplyAlpha: "none"});
      const orientation = orientationOf(metadata.exif), scale = Math.min(Math.sqrt(SCREEN_PIXELS / (width * height)), 1);
      const small = scale < 1 && pixelsIn(drawn(bitmap, orientation, scale));
      const whole = drawn(bitmap, orientation);
      bitmap.close(); // before the pixels are read: of bitmap, canvas and pixels two are in memory at once
      const picture = pixelsIn(whole);
      Object.assign(photograph, {name: file.name, metadata, picture, screen: small || picture});
    } catch (error) {
      if (!(error instanceof DOMException || error instanceof RangeError)) throw error;
      throw new Fault(`${file.name} is damaged or too large for this browser: its pixels cannot be read.`);
    }
    return photograph;
  }

  /** Compute the factors; to be called once. @throws {Fault} the network's output is not finite */
  async enhance(network) {
    this.factors = await factorsFor(network, this.picture);
  }

  /** Return the picture for the screen, before or, with an exposure in EV, after. */
  shown(exposure) {
    const {data, width, height} = this.screen;
    if (exposure === undefined) return {data: data.slice(), width, height};
    const after = new Uint8ClampedArray(data.length);
    recolour(data, after, this.screen, this.factors, {exposure, grey: this.metadata.grey});
    return {data: after, width, height};
  }

  /**
   * Return the photograph at its own size as a file, with the name, the EXIF and the ICC profile of the input.
   *
   * @param {number} exposure in EV
   * @param {string} [type] the format; that of the input by default
   */
  async file(exposure, type = this.metadata.type) {
    const {data, width, height} = this.picture, rows = Math.max(Math.floor(STRIP_PIXELS / width), 1);
    const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
    for (let first = 0; first < height; first += rows) {
      const last = Math.min(first + rows, height), strip = new ImageData(width, last - first);
      recolour(data.subarray(4 * first * width, 4 * last * width), strip.data, this.picture, this.factors,
        {exposure, grey: this.metadata.grey, first, last});
      context.putImageData(strip, 0, first);
    }
    const blob = await canvas.convertToBlob({type, quality: QUALITY});
    if (blob.type !== type) throw new Fault(`This browser cannot write ${type.split("/")[1].toUpperCase()}: save as PNG.`);
    const suffix = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp"}[type];
    const name = type === this.metadata.type && /\.\w+$/.test(this.name) ? this.name
      : this.name.replace(/\.\w+$/, "") + suffix;
    return {blob: await withMetadata(new Uint8Array(await blob.arrayBuffer()), this.metadata), name};
  }
}

/** Return the pixels of a bitmap at its own size. */
export const pixelsOf = (bitmap) => pixelsIn(drawn(bitmap, 1));

/** Draw a bitmap of an orientation of EXIF, from 1 to 8, upright; return the canvas's context. */
function drawn(bitmap, orientation, scale = 1) {
  const [across, down] = [bitmap.width, bitmap.height].map((side) => Math.max(Math.round(side * scale), 1));
  const onItsSide = orientation > 4;
  const mirrored = [2, 3, 7, 8].includes(orientation), upsideDown = [3, 4, 6, 7].includes(orientation);
  const canvas = new OffscreenCanvas(onItsSide ? down : across, onItsSide ? across : down);
  const context = canvas.getContext("2d", {willReadFrequently: true});
  Object.assign(context, {imageSmoothingEnabled: scale < 1, imageSmoothingQuality: "high"});
  if (onItsSide) context.transform(0, 1, 1, 0, 0, 0);
  context.transform(mirrored ? -1 : 1, 0, 0, upsideDown ? -1 : 1, mirrored ? across : 0, upsideDown ? down : 0);
  context.drawImage(bitmap, 0, 0, across, down);
  context.getImageData(0, 0, 1, 1); // it is drawn now, and the bitmap may go
  return context;
}

/** Return what a canvas shows, and free its memory. */
function pixelsIn(context) {
  const {canvas, canvas: {width, height}} = context;
  const {data} = context.getImageData(0, 0, width, height);
  canvas.width = canvas.height = 0;
  return {data, width, height};
}
