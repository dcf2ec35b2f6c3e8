// The worker: all that takes time. It answers {id, task, ...} with {id, result} or {id, fault: a sentence}.

import {computeFrame, frameOf} from "./chip.js";
import {Fault} from "./fault.js";
import {Network} from "./network.js";
import {Photograph, factorsFor, pixelsOf} from "./photograph.js";
import {recolour} from "./pixels.js";

const network = Network.load(new URL(".", self.location));
network.catch(() => {}); // the first task that needs it says why
const LIVE_PIXELS = 240 * 160; // of the webcam's copy: a sixth of the time, and 0.2 dB less (mirnet_torch/restoration/full_size.py)
const MEMORY = "There is not enough memory for this picture: close other tabs, or make the picture smaller."; // a RangeError
let photograph = null;

const tasks = {
  /** Wait for the network. */
  async load() {
    await network;
  },

  async open({file, exposure}) {
    const opened = await Photograph.open(file);
    await opened.enhance(await network);
    photograph = opened; // the last one stays if this one cannot be read
    return {before: opened.shown(), after: opened.shown(exposure), width: opened.picture.width,
      height: opened.picture.height};
  },

  async expose({exposure}) {
    return {after: photograph.shown(exposure)};
  },

  async save({exposure, type}) {
    return photograph.file(exposure, type);
  },

  /** Compute the photograph at the board's size as the board does, and in floating point. */
  async chip({exposure}) {
    const dark = frameOf(photograph.picture);
    return {dark, ...await computeFrame(await network, dark, exposure)};
  },

  /** Enhance one picture of the webcam. */
  async frame({bitmap, exposure}) {
    const before = pixelsOf(bitmap);
    bitmap.close();
    const {width, height} = before, data = new Uint8ClampedArray(before.data.length);
    recolour(before.data, data, before, await factorsFor(await network, before, LIVE_PIXELS), {exposure});
    return {before: {data: before.data, width, height}, after: {data, width, height}};
  },
};

self.onmessage = async ({data: {id, task, ...given}}) => {
  try {
    const result = await tasks[task](given) ?? {};
    const buffers = Object.values(result).map((value) => value?.data?.buffer).filter(Boolean);
    self.postMessage({id, result}, buffers);
  } catch (error) {
    self.postMessage({id, fault: error instanceof Fault ? error.message
      : error instanceof RangeError ? MEMORY : `The network cannot run here: ${error.message ?? error}`});
  }
};
