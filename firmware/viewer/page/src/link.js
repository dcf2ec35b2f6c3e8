// An open connection to the board: over WebSerial, or over the WebSocket of `python firmware/viewer --page`.

import {Decoder, HALTED, TYPE, encode, frameOf, wordsOf} from "./protocol.js";

const PATIENCE = 15_000; // milliseconds that the board may be silent

/** Open a port of WebSerial as {bytes: an async iterator, write, close}. */
export async function openSerial(port) {
  await port.open({baudRate: 115200});
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
  socket.onclose = ({reason}) => {
    closed = reason || "the connection has ended";
    wake();
  };
  return new Promise((resolve) => {
    socket.onopen = () => resolve({
      async* bytes() {
        for (;;) {
          if (arrived.length) yield arrived.shift();
          else if (closed) throw new Error(closed);
          else await new Promise((woken) => { wake = woken; });
        }
      },
      write: (bytes) => socket.send(bytes),
      close: () => socket.close(),
    });
    socket.onerror = () => resolve({
      async* bytes() { throw new Error("firmware/viewer --page is not running"); },
      write() {},
      close() {},
    });
  });
}

/** The board's commands, and its frames as they arrive. */
export class Link {
  #transport;
  #decoder = new Decoder();
  #waiting = new Map(); // what waits for an answer, by tag
  #tag = 0;
  #dark = null;

  /** @param {object} transport @param {{frame: Function, problem: Function}} told of a pair of frames, and of a status */
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
      for (const {reject} of this.#waiting.values()) reject(new Error("the board was unplugged"));
    }
  }

  #take(message) {
    const {type, tag, payload} = message, waiting = this.#waiting.get(tag);
    if (type === TYPE.status && payload[0]) {
      const error = new Error(new TextDecoder().decode(payload.subarray(1)));
      if (waiting) waiting.reject(error);
      else this.told.problem(error.message, payload[0] >= HALTED);
    } else if (type === TYPE.dark || type === TYPE.bright) {
      const frame = this.size && frameOf(message, ...this.size);
      if (type === TYPE.dark) this.#dark = frame;
      else if (frame && frame.number === this.#dark?.number) this.told.frame(this.#dark, frame);
    } else if (waiting?.type === type) {
      waiting.resolve(payload);
    }
  }

  /** Send a command and return the payload of its answer. @throws {Error} the board reports a problem, or is silent */
  async ask(command, payload, type) {
    const tag = this.#tag = this.#tag % 255 + 1;
    try {
      return await new Promise((resolve, reject) => {
        this.#waiting.set(tag, {type, resolve, reject});
        setTimeout(() => reject(new Error("The board does not answer: is the sketch on it? Press its reset button.")),
          PATIENCE);
        Promise.resolve(this.#transport.write(encode(command, tag, payload))).catch(reject);
      });
    } finally {
      this.#waiting.delete(tag);
    }
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

  selfTest = async () => wordsOf(await this.ask(TYPE.selfTest, [], TYPE.selfTestText));

  close() {
    return this.#transport.close();
  }
}
