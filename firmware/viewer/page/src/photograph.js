// Open, enhance and save a photograph. It runs in the worker.

import {boxFilter, copySize, factorsOf, recolour, toCells, CELL} from "./pixels.js";
import {orientationOf, readMetadata, withMetadata, withoutExif} from "./metadata.js";

export const MOST_PIXELS = 100e6; // a picture and its result take 8 bytes for each
const SCREEN_PIXELS = 2e6; // of the picture on the page, which follows the slider
const QUALITY = 0.95; // of JPEG and WebP

/** A sentence for the visitor: what is wrong with a file, and what to do. */
export class Fault extends Error {}

/** Run the core on a copy of a picture and return its factors, for `recolour`. */
export async function factorsFor(network, picture, pixels) {
  const copy = copySize(picture.height, picture.width, pixels);
  const {cells, rows, columns} = toCells(boxFilter(picture, copy.rows, copy.columns), copy.rows, copy.columns);
  const values = factorsOf(await network.run("float32", cells, rows, columns));
  return {values, rows, columns, down: copy.rows / CELL, across: copy.columns / CELL};
}

export class Photograph {
  /** Decode a file. @throws {Fault} it is no picture that can be read */
  static async open(file) {
    const bytes = new Uint8Array(await file.arrayBuffer());
    const metadata = await readMetadata(bytes);
    if (!metadata) throw new Fault(`${file.name} is not a picture that can be read: choose a JPEG, PNG or WebP file.`);
    const {width, height, type} = metadata;
    if (width * height > MOST_PIXELS) {
      throw new Fault(`${file.name} has ${Math.round(width * height / 1e6)} megapixels. This page takes at most `
        + `${MOST_PIXELS / 1e6}: make it smaller first.`);
    }
    const photograph = new Photograph();
    const orientation = orientationOf(metadata.exif);
    try {
      // Values as they are in the file; the profile goes into the result.
      const bitmap = await createImageBitmap(new Blob([metadata.exif ? withoutExif(bytes, metadata) : bytes], {type}),
        {colorSpaceConversion: "none", premultiplyAlpha: "none"});
      const picture = turned(pixelsOf(bitmap), orientation);
      Object.assign(photograph, {name: file.name, metadata, picture});
      const scale = Math.min(Math.sqrt(SCREEN_PIXELS / (bitmap.width * bitmap.height)), 1);
      const small = (side) => Math.max(Math.round(side * scale), 1);
      photograph.screen = scale === 1 ? picture
        : turned(pixelsOf(bitmap, small(bitmap.width), small(bitmap.height)), orientation);
      bitmap.close();
    } catch (error) {
      if (!(error instanceof DOMException || error instanceof RangeError)) throw error;
      throw new Fault(`${file.name} is damaged or too large for this browser: its pixels cannot be read.`);
    }
    return photograph;
  }

  /** Compute the factors; to be called once. @throws {RangeError} the network's output is not finite */
  async enhance(network) {
    this.factors = await factorsFor(network, this.picture);
  }

  /** Return the picture for the screen, before or, with an exposure in EV, after. */
  shown(exposure) {
    if (exposure === undefined) return copied(this.screen);
    return this.#recoloured(this.screen, exposure);
  }

  /**
   * Return the photograph at its own size as a file, with the name, the EXIF and the ICC profile of the input.
   *
   * @param {number} exposure in EV
   * @param {string} [type] the format; that of the input by default
   */
  async file(exposure, type = this.metadata.type) {
    const {data, width, height} = this.#recoloured(this.picture, exposure);
    const canvas = new OffscreenCanvas(width, height);
    canvas.getContext("2d").putImageData(new ImageData(data, width, height), 0, 0);
    const blob = await canvas.convertToBlob({type, quality: QUALITY});
    if (blob.type !== type) throw new Fault(`This browser cannot write ${type.split("/")[1].toUpperCase()}: save as PNG.`);
    const suffix = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp"}[type];
    const name = type === this.metadata.type && /\.\w+$/.test(this.name) ? this.name
      : this.name.replace(/\.\w+$/, "") + suffix;
    return {blob: await withMetadata(new Uint8Array(await blob.arrayBuffer()), this.metadata), name};
  }

  #recoloured(picture, exposure) {
    const data = new Uint8ClampedArray(picture.data.length);
    recolour(picture.data, data, picture, this.factors, {exposure, grey: this.metadata.grey});
    return {data, width: picture.width, height: picture.height};
  }
}

/** Return the pixels of a bitmap, of its size or another. */
export function pixelsOf(bitmap, width = bitmap.width, height = bitmap.height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

/** Turn a picture upright that has an orientation of EXIF, from 1 to 8. */
function turned({data, width, height}, orientation) {
  if (orientation === 1) return {data, width, height};
  const pixels = new Uint32Array(data.buffer), result = new Uint32Array(pixels.length);
  const onItsSide = orientation > 4, across = onItsSide ? height : width, down = onItsSide ? width : height;
  const mirrored = [2, 3, 7, 8].includes(orientation), upsideDown = [3, 4, 6, 7].includes(orientation);
  for (let y = 0, to = 0; y < down; y++) {
    for (let x = 0; x < across; x++, to++) {
      const [column, row] = onItsSide ? [y, x] : [x, y];
      result[to] = pixels[(upsideDown ? height - 1 - row : row) * width + (mirrored ? width - 1 - column : column)];
    }
  }
  return {data: new Uint8ClampedArray(result.buffer), width: across, height: down};
}

const copied = ({data, width, height}) => ({data: data.slice(), width, height});
