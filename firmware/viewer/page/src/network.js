// The network's core: cells in, maps out. In floating point LiteRT.js runs it at any size; in int8 it is computed as the board
// does, at the board's size. It runs in a worker.

import {loadAndCompile, loadLiteRt, Tensor} from "@litertjs/core";
import {openInt8} from "./int8.js";
import {withSize} from "./tflite.js";

const KEPT = 3; // compiled sizes; a page sees a photograph, the webcam and the chip's frame in turn

/** The float model, which takes any size, and the int8 one that the board runs. */
export class Network {
  #files;
  #compiled = new Map();
  #int8;

  /** @param {{float32: Uint8Array, int8: Uint8Array}} files the models as the conversion wrote them */
  constructor(files) {
    this.#files = files;
  }

  /**
   * Load LiteRT and both models from a folder, and check that they are those that the page was built with.
   *
   * @param {URL} folder of the page
   * @throws {Error} a file is missing or not the one that models.json names
   */
  static async load(folder) {
    const listed = await (await fetched(new URL("models.json", folder))).json();
    const [float32, int8] = await Promise.all(["float32", "int8"].map(async (kind) => {
      const {file, sha256} = listed[kind];
      const bytes = new Uint8Array(await (await fetched(new URL(file, folder))).arrayBuffer());
      const found = await crypto.subtle?.digest("SHA-256", bytes); // absent on a page from plain http
      if (found && hex(found) !== sha256) throw new Error(`${file} is damaged: reload the page`);
      return bytes;
    }));
    self.Module = {
      locateFile: (name) => new URL(`litert/${name}`, folder).href, // else it looks beside the worker
      printErr: (line) => /^(INFO|WARNING)/.test(line) || console.error(line),
    };
    await loadLiteRt(new URL("litert/litert_wasm_compat_internal.js", folder).href);
    return new Network({float32, int8});
  }

  /**
   * Run the int8 model, for the board's size, byte for byte as the board does.
   *
   * @param {Int8Array} cells codes of the roots of colours
   * @returns {{maps: Int8Array, scale: number, zeroPoint: number}} maps (rows, columns, 15) and the meaning of their codes
   */
  runAsTheBoard(cells) {
    const {run, scale, zeroPoint} = this.#int8 ??= openInt8(this.#files.int8);
    return {maps: run(cells), scale, zeroPoint};
  }

  /**
   * Run the model in floating point.
   *
   * @param {Float32Array} cells (rows, columns, 75): roots of colours from 0 to 1
   * @param {number} rows even
   * @param {number} columns even
   * @returns {Promise<Float32Array>} maps (rows, columns, 15)
   */
  async run(cells, rows, columns) {
    const model = await this.#model(rows, columns);
    const input = new Tensor(cells, [1, rows, columns, cells.length / (rows * columns)]);
    try {
      const [output] = await model.run(input);
      try {
        return output.toTypedArray().slice();
      } finally {
        output.delete();
      }
    } finally {
      input.delete();
    }
  }

  async #model(rows, columns) {
    const key = `${rows}x${columns}`;
    let model = this.#compiled.get(key);
    this.#compiled.delete(key); // to become the latest
    model ??= await loadAndCompile(withSize(this.#files.float32, rows, columns), {accelerator: "wasm"});
    this.#compiled.set(key, model);
    if (this.#compiled.size > KEPT) {
      const [oldest] = this.#compiled.keys();
      this.#compiled.get(oldest).delete();
      this.#compiled.delete(oldest);
    }
    return model;
  }
}

async function fetched(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url.pathname} is missing on the server (${answer.status})`);
  return answer;
}

function hex(buffer) {
  return Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
