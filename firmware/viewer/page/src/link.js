// An open connection to the board: over WebSerial, or over the WebSocket of `python firmware/viewer --page`.

import {DAMAGED, Decoder, TYPE, VERSION, cameraPayload, encode, frameOf, halts, wordsOf} from "./protocol.js";

const PATIENCE = 15_000; // milliseconds that the board may be silent
const PORT_REFUSED = 4001; // a status of page_server.py
const ATTEMPTS = 3; // at a command that arrives damaged

class Damaged extends Error {}

/** The port is there, but does not open. */
export class Refused extends Error {}

/** Open a port of WebSerial as {bytes: an async iterator, write, close}. @throws {Refused} */
export async function openSerial(port) {
  try {
    await port.open({baudRate: 115200});
  } catch (error) {
    if (error.name !== "NetworkError" || port.connected === false) throw error;
    throw new Refused("The board's port does not open: close other programs that use it; on Linux, join the group of serial "
      + "ports, often dialout.");
  }
  const reader = port.readable.getReader(), writer = port.writable.getWriter();
  return {
    async* bytes() {
      for (;;) {
        const {value, done} = await reader.read();
        if (done) return;
        yield value;
      }
    },
    write: (bytes) => writer.write(bytes),
    async close() {
      await reader.cancel().catch(() => {}); // the port may be gone
      reader.releaseLock();
      await writer.close().catch(() => {});
      await port.close().catch(() => {});
    },
  };
}

/** Open a WebSocket in the same form. */
export function openSocket(url) {
  const socket = new WebSocket(url), arrived = [];
  socket.binaryType = "arraybuffer";
  let wake = () => {}, closed = null;
  socket.onmessage = ({data}) => {
    arrived.push(new Uint8Array(data));
    wake();
  };
  socket.onclose = ({code, reason}) => {
    closed = new (code === PORT_REFUSED ? Refused : Error)(reason || "the connection has ended");
    wake();
  };
  return new Promise((resolve) => {
    socket.onopen = () => resolve({
      async* bytes() {
        for (;;) {
          if (arrived.length) yield arrived.shift();
          else if (closed) throw closed;
          else await new Promise((woken) => { wake = woken; });
        }
      },
      write: (bytes) => socket.send(bytes),
      close: () => closed ? null : new Promise((resolve) => {
        socket.addEventListener("close", resolve);
        socket.close();
      }),
    });
    socket.onerror = () => resolve({
      async* bytes() { throw new Error("firmware/viewer --page is not running"); },
      write() {},
      close() {},
    });
  });
}

/** The board's commands, and its frames as they arrive. `gone` becomes true with the port. */
export class Link {
  #transport;
  #decoder = new Decoder();
  #waiting = new Map(); // what waits for an answer, by tag
  #tag = 0;
  #dark = null;
  #closed = null;
  gone = false;

  /**
   * @param {object} transport
   * @param {{frame: Function, problem: Function}} told of a pair of frames; of a sentence, and whether the sketch has halted
   */
  constructor(transport, told) {
    this.#transport = transport;
    this.told = told;
  }

  /** Read until the port is gone. @throws {Error} it is gone; the message says how */
  async read() {
    try {
      for await (const bytes of this.#transport.bytes()) {
        for (const message of this.#decoder.feed(bytes)) this.#take(message);
      }
      throw new Error("the port has ended");
    } finally {
      this.gone = true;
      for (const {reject} of this.#waiting.values()) reject(new Error("The board was unplugged."));
    }
  }

  #take(message) {
    const {type, tag, payload, version} = message, waiting = this.#waiting.get(tag);
    if (version) {
      this.#fail(waiting ? [waiting] : [], new Error(`The board's sketch has version ${version} of the protocol, this page `
        + `version ${VERSION}: upload the sketch that belongs to this page.`));
    } else if (type === TYPE.status && payload[0]) {
      const damaged = payload[0] === DAMAGED, words = `The board says: ${new TextDecoder().decode(payload.subarray(1))}`;
      this.#fail(waiting ? [waiting] : damaged && !tag ? [...this.#waiting.values()] : [], // damaged before its tag was known
        new (damaged ? Damaged : Error)(words), halts(payload[0]));
    } else if (type === TYPE.darkFrame || type === TYPE.brightFrame) {
      const frame = this.size && frameOf(message, ...this.size);
      if (frame === null) {
        this.told.problem(`The board sent ${payload.length} bytes as a frame of ${this.size.join("×")} pixels: upload the `
          + "sketch that belongs to this page.", false);
      }
      if (type === TYPE.darkFrame) this.#dark = frame;
      else if (frame && frame.number === this.#dark?.number) this.told.frame(this.#dark, frame);
    } else if (waiting?.type === type) {
      waiting.resolve(payload);
    }
  }

  /** Give an error to the commands that it concerns; without any the visitor is told. */
  #fail(commands, error, final = false) {
    for (const {reject} of commands) reject(error);
    if (!commands.length) this.told.problem(error.message, final);
  }

  /** Send a command and return the payload of its answer. @throws {Error} the board reports a problem, or is silent */
  async ask(command, payload, type) {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#attempt(command, payload, type);
      } catch (error) {
        if (!(error instanceof Damaged) || attempt === ATTEMPTS) throw error;
      }
    }
  }

  #attempt(command, payload, type) {
    const tag = this.#tag = this.#tag % 255 + 1;
    return new Promise((resolve, reject) => {
      const ending = (end) => (value) => { // at once: what the board says next may have the same tag
        this.#waiting.delete(tag);
        clearTimeout(patience);
        end(value);
      };
      const waiting = {type, resolve: ending(resolve), reject: ending(reject)};
      const patience = setTimeout(() => waiting.reject(
        new Error("The board does not answer: is the sketch on it? Press its reset button.")), PATIENCE);
      this.#waiting.set(tag, waiting);
      Promise.resolve(this.#transport.write(encode(command, tag, payload))).catch(waiting.reject);
    });
  }

  /** Ask what the board is; frames can be read from then on. */
  async info() {
    const words = wordsOf(await this.ask(TYPE.info, [], TYPE.infoText));
    const size = [Number(words.width), Number(words.height)];
    if (!(size[0] > 0 && size[1] > 0)) throw new Error("The board does not say how large its frames are: upload the sketch.");
    this.size = size;
    return words;
  }

  /** Stream frames: 1 the camera's, 2 the test picture, 0 none. */
  stream = (source) => this.ask(TYPE.stream, [source], TYPE.status);

  /** Make the next frames brighter, in EV. */
  expose = (value) => this.ask(TYPE.exposure, [Math.round(8 * value) & 255], TYPE.status);

  /** Set the camera; see `cameraPayload`. */
  camera = (settings) => this.ask(TYPE.camera, cameraPayload(settings), TYPE.status);

  selfTest = async () => wordsOf(await this.ask(TYPE.selfTest, [], TYPE.selfTestText));

  /** Close the port; a promise that it can be opened again. */
  close() { // once: a second time might close what has been opened since
    return this.#closed ??= Promise.resolve(this.#transport.close());
  }
}
