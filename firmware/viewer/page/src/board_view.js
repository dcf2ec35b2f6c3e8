// The board: its dark and bright frames as they arrive, its self-test, its brightness.

import {show, shownAsPng} from "./compare.js";
import {Link, openSerial, openSocket} from "./link.js";
import {complain, download, say} from "./say.js";

const BOARDS = [0x005a, 0x015a, 0x025a, 0x805a].map((usbProductId) => ({usbVendorId: 0x2341, usbProductId}));
const RETRY = 500; // milliseconds between attempts to find a board that is gone
const CAMERA = 1, TEST_PICTURE = 2;
const element = (id) => document.getElementById(id);
const button = element("board"), testPicture = element("test-picture"), selfTest = element("self-test");
const bridged = new URLSearchParams(location.search).has("bridge");

/** Set the board up; `opened` is called when it is connected. */
export function board({exposure, opened}) {
  let link = null, wanted = false, halted = false;

  const source = () => testPicture.getAttribute("aria-pressed") === "true" ? TEST_PICTURE : CAMERA;

  /** Return a function that opens the board's port. */
  async function find() {
    if (bridged) return () => openSocket(new URL("board", location.href.replace(/^http/, "ws")));
    if (!navigator.serial) throw new Error("This browser cannot talk to a board (no WebSerial): use Chrome or Edge.");
    let port = await navigator.serial.requestPort({filters: BOARDS});
    return async () => {
      if (!port.connected && port.connected !== undefined) port = (await navigator.serial.getPorts())[0] ?? port;
      return openSerial(port);
    };
  }

  async function connect() {
    let open;
    try {
      open = await find();
    } catch (error) {
      return complain(error.name === "NotFoundError" ? "No board was chosen: plug it in and try again." : error.message);
    }
    wanted = true;
    label();
    for (let first = true; wanted; first = false) {
      try {
        link = new Link(await open(), {frame, problem});
        const reading = link.read();
        reading.catch(() => {}); // it is awaited below
        halted = false;
        await Promise.race([start(first), reading]);
        await reading;
      } catch (error) {
        if (wanted && !halted) say(`The board is away (${error.message}): waiting for it to come back …`);
      }
      await link?.close();
      link = null;
      if (wanted) await new Promise((resolve) => setTimeout(resolve, RETRY));
    }
  }

  async function start(first) {
    const info = await link.info();
    const listed = await (await fetch("models.json")).json();
    if (first) opened();
    say(`The board is connected. Its model is ${info.model === listed.int8.sha256 ? "the one of this page" : "another one"}.`);
    await link.expose(exposure());
    await link.stream(source());
  }

  let since = null;
  function frame(dark, bright) {
    const now = performance.now(), rate = since && 1000 / (now - since);
    since = now;
    show({before: dark.picture, after: bright.picture});
    say(`Board, frame ${bright.number}: ${rate ? rate.toFixed(1) : "–"} frames a second, the model takes `
      + `${(1000 * bright.seconds).toFixed(0)} ms`);
  }

  function problem(words, final) {
    halted ||= final;
    complain(`The board says: ${words}`);
  }

  function stop() {
    wanted = false;
    link?.close();
    label();
  }

  function label() {
    button.textContent = wanted ? "Disconnect board" : "Board";
    for (const control of [testPicture, selfTest]) control.hidden = !wanted;
  }

  async function told(action) {
    try {
      if (link) await action();
      else say("The board is away: waiting for it to come back …");
    } catch (error) {
      complain(error.message);
    }
  }

  button.addEventListener("click", () => {
    if (wanted) {
      stop();
      say("The board is disconnected.");
    } else {
      connect();
    }
  });
  testPicture.addEventListener("click", () => told(() => {
    testPicture.setAttribute("aria-pressed", source() === CAMERA);
    return link.stream(source());
  }));
  selfTest.addEventListener("click", () => told(async () => {
    await link.stream(0);
    const words = await link.selfTest();
    element("self-test-words").textContent = `Self-test ${words["self-test"]}: ${words.differing} of ${words.of} bytes differ.`;
    await link.stream(source());
  }));
  return {
    stop,
    expose: () => told(() => link.expose(exposure())),
    save: async () => download(await shownAsPng(), "board.png"),
  };
}
