// The messages of the board, described in mirnet_nano33ble/PROTOCOL.md.

import {crc32} from "./metadata.js";
import {fromYuyv} from "./yuv422.js";

export const TYPE = {
  info: 0x01, selfTest: 0x02, stream: 0x06, exposure: 0x07, camera: 0x08,
  infoText: 0x81, selfTestText: 0x82, darkFrame: 0x83, brightFrame: 0x84, status: 0x85,
};
export const VERSION = 2, DAMAGED = 1; // DAMAGED: the status of a command that arrived damaged
/** Return whether the sketch has halted after this status. */
export const halts = (status) => status >= 6 && status <= 11;
const HEADER = 12, FRAME_HEADER = 8;
const MOST = FRAME_HEADER + 3 * 131072; // bytes; no payload is longer

/** Return a message as it goes over the wire. */
export function encode(type, tag, payload = []) {
  const n = payload.length, bytes = new Uint8Array(HEADER + n + 4), view = new DataView(bytes.buffer);
  bytes.set([0xa5, 0x4d, VERSION, type, tag, n & 255, n >> 8 & 255, n >> 16]);
  view.setUint32(8, crc32(bytes.subarray(0, 8)), true);
  bytes.set(payload, HEADER);
  view.setUint32(HEADER + n, crc32(bytes.subarray(0, HEADER + n)), true);
  return bytes;
}

/**
 * Find messages in a stream of bytes of which any may be missing, wrong or extra. After a damaged message the search goes
 * on at that message's second byte.
 */
export class Decoder {
  #bytes = new Uint8Array(0);

  /** Take bytes and yield the messages {type, tag, payload} that they complete; {version, tag} for one of another version. */
  * feed(data) {
    const bytes = new Uint8Array(this.#bytes.length + data.length);
    bytes.set(this.#bytes);
    bytes.set(data, this.#bytes.length);
    const view = new DataView(bytes.buffer);
    let at = 0;
    for (;;) {
      at = bytes.indexOf(0xa5, at);
      if (at < 0) at = bytes.length;
      if (bytes.length < at + HEADER) break;
      const version = bytes[at + 2], tag = bytes[at + 4];
      const n = bytes[at + 5] | bytes[at + 6] << 8 | bytes[at + 7] << 16, end = at + HEADER + n;
      if (bytes[at + 1] !== 0x4d || crc32(bytes.subarray(at, at + 8)) !== view.getUint32(at + 8, true)) {
        at++;
      } else if (version !== VERSION) {
        yield {version, tag};
        at += HEADER;
      } else if (n > MOST) {
        at++;
      } else if (bytes.length < end + 4) {
        break;
      } else if (crc32(bytes.subarray(at, end)) !== view.getUint32(end, true)) {
        at++;
      } else {
        yield {type: bytes[at + 3], tag, payload: bytes.slice(at + HEADER, end)};
        at = end + 4;
      }
    }
    this.#bytes = bytes.slice(at);
  }
}

/** Return {number, seconds, picture} of a dark or bright frame; null if it has another size. */
export function frameOf({type, payload}, width, height) {
  const decode = type === TYPE.darkFrame ? fromCamera : fromRgb, data = decode(payload.subarray(FRAME_HEADER), width * height);
  const view = new DataView(payload.buffer);
  return data && {number: view.getUint32(0, true), seconds: view.getUint32(4, true) / 1e6, picture: {data, width, height}};
}

const fromCamera = (bytes, pixels) => bytes.length === 2 * pixels ? fromYuyv(bytes) : null;

function fromRgb(bytes, pixels) {
  if (bytes.length !== 3 * pixels) return null;
  const rgba = new Uint8ClampedArray(4 * pixels).fill(255);
  for (let i = 0; i < pixels; i++) for (let c = 0; c < 3; c++) rgba[4 * i + c] = bytes[3 * i + c];
  return rgba;
}

const ROW = 392e-6, MOST_ROWS = 510; // seconds of exposure of a camera's row, and rows of a frame

/**
 * Return the payload of the command that sets the camera.
 *
 * @param {{mirror: boolean, flip: boolean, night: number, ceiling: number, gain: number, shutter: number}} settings night:
 *     1, 2, 4 or 8, how many times longer a frame may take; ceiling: the highest automatic gain, 2 to 128; gain, and
 *     shutter in seconds: 0 is automatic
 */
export function cameraPayload({mirror, flip, night, ceiling, gain, shutter}) {
  const sixteenths = Math.round(16 * gain), rows = shutter && Math.min(Math.max(Math.round(shutter / ROW), 1), MOST_ROWS);
  return [mirror | flip << 1, Math.log2(night), Math.log2(ceiling), sixteenths & 255, sixteenths >> 8, rows & 255, rows >> 8];
}

/** Return the pairs of name=value in a text. */
export function wordsOf(payload) {
  const words = new TextDecoder().decode(payload).split(" ");
  return Object.fromEntries(words.map((word) => [word.split("=")[0], word.slice(word.indexOf("=") + 1)]));
}
