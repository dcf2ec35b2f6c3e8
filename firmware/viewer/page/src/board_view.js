// The board: its dark and bright frames as they arrive, its self-test, its brightness, its camera.

import {show, shownAsPng} from "./compare.js";
import {Link, Refused, openSerial, openSocket} from "./link.js";
import {complain, download, say, sayRate, settle} from "./say.js";

const BOARDS = [0x005a, 0x015a, 0x025a, 0x805a].map((usbProductId) => ({usbVendorId: 0x2341, usbProductId}));
const RETRY = 500; // milliseconds between attempts to find a board that is gone
const KIND = "board", SILENCE = "silence"; // of complaints: a new connection settles the one, the next picture the other
const QUIET = 5; // seconds without a picture; the slowest frame takes less than three
const CAMERA = 1, TEST_PICTURE = 2;
const element = (id) => document.getElementById(id);
const button = element("board"), testPicture = element("test-picture"), selfTest = element("self-test");
const camera = element("camera"), switches = ["mirror", "flip"].map(element);
const choices = ["night", "ceiling", "gain", "shutter"].map(element);
/** Whether `python firmware/viewer --page` serves the page and carries the board's bytes. */
export const bridged = new URLSearchParams(location.search).has("bridge");

/** Return whether a port, which this origin may use for another page, is that of a board that is plugged in. */
function isBoard(port) {
  const {usbVendorId, usbProductId} = port.getInfo();
  return port.connected !== false
    && BOARDS.some((known) => known.usbVendorId === usbVendorId && known.usbProductId === usbProductId);
}

/** Set the board up; `opened` is called whenever it is connected. */
export function board({exposure, opened}) {
  let link = null, halted = false, since = null, quiet = 0; // since: when the last frame came; quiet: a timer
  let closing = null; // the port that the visitor has disconnected, until it can be opened again
  let wanted = null; // what stands for the connection that the visitor asked for last

  const source = () => testPicture.getAttribute("aria-pressed") === "true" ? TEST_PICTURE : CAMERA;

  const settings = () => Object.fromEntries([...switches.map(({id, ariaPressed}) => [id, ariaPressed === "true"]),
    ...choices.map(({id, value}) => [id, Number(value)])]);
  const setCamera = () => told(() => link.camera(settings()));

  /** Return a function that opens the board's port. */
  async function find() {
    if (bridged) return () => openSocket(new URL("board", location.href.replace(/^http/, "ws")));
    if (!navigator.serial) throw new Error("This browser cannot talk to a board (no WebSerial): use Chrome or Edge.");
    let port = await navigator.serial.requestPort({filters: BOARDS});
    return async () => { // a board that comes back may have another object, and may be another one of two
      const boards = (await navigator.serial.getPorts()).filter(isBoard);
      if (!boards.includes(port)) port = boards[0] ?? port;
      return openSerial(port);
    };
  }

  async function connect() {
    const mine = wanted = {};
    let open;
    try {
      open = await find();
    } catch (error) {
      if (wanted !== mine) return;
      wanted = null;
      return complain(error.name === "NotFoundError" ? "No board was chosen: plug it in and try again." : error.message);
    }
    label();
    await closing;
    while (wanted === mine) {
      let own = null;
      try {
        const still = (tell) => (...news) => wanted === mine && tell(...news);
        own = new Link(await open(), {frame: still(frame), problem: still(problem)});
        if (wanted === mine) await follow(own);
      } catch (error) {
        if (wanted === mine) {
          sayRate();
          if (error instanceof Refused) complain(error.message, KIND);
          else if (!own || own.gone) say(`The board is away (${error.message}): waiting for it to come back …`);
          else if (!halted) complain(error.message, KIND);
        }
      }
      await own?.close();
      if (link === own) link = null;
      if (wanted === mine) await new Promise((resolve) => setTimeout(resolve, RETRY));
    }
  }

  /** Start a board's stream and read until it is gone. @throws {Error} how it has gone */
  async function follow(own) {
    link = own;
    halted = false;
    since = null;
    const reading = own.read();
    reading.catch(() => {}); // it is awaited below
    await Promise.race([start(own), reading]);
    await reading;
  }

  async function start(own) {
    const info = await own.info();
    opened();
    settle(KIND);
    const listed = await (await fetch("models.json")).json();
    if (link !== own) return; // disconnected meanwhile
    say(`The board is connected. Its model is ${info.model === listed.int8.sha256 ? "the one of this page" : "another one"}.`);
    await own.expose(exposure());
    await own.camera(settings()); // until it is reset it keeps those of another page
    await own.stream(source());
    listen();
  }

  /** Say it if no picture comes for some seconds. */
  function listen() {
    clearTimeout(quiet);
    quiet = setTimeout(() => {
      if (!link || link.gone || halted || element("fault").textContent) return; // the board may have said why
      sayRate();
      complain(`The board has sent no picture for ${QUIET} seconds: is its camera wired, and its sketch running?`, SILENCE);
    }, 1000 * QUIET);
  }

  function frame(dark, bright) {
    settle(SILENCE);
    listen();
    const now = performance.now(), rate = since && 1000 / (now - since);
    since = now;
    show({before: dark.picture, after: bright.picture});
    sayRate(`Board, frame ${bright.number}: ${rate ? rate.toFixed(1) : "–"} frames a second, the model takes `
      + `${(1000 * bright.seconds).toFixed(0)} ms`);
  }

  function problem(words, final) {
    halted ||= final;
    complain(words, KIND);
  }

  function stop() {
    sayRate();
    clearTimeout(quiet);
    wanted = null;
    closing = link?.close() ?? closing;
    link = null;
    label();
  }

  function label() {
    button.textContent = wanted ? "Disconnect board" : "Board";
    for (const control of [testPicture, selfTest, camera]) control.hidden = !wanted;
  }

  async function told(action) {
    const own = link;
    try {
      if (own) await action();
      else if (wanted) say("The board is away: waiting for it to come back …");
    } catch (error) {
      if (!own.gone) complain(error.message, KIND);
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
  for (const control of switches) {
    control.addEventListener("click", () => {
      control.ariaPressed = control.ariaPressed !== "true";
      setCamera();
    });
  }
  for (const control of choices) control.addEventListener("change", setCamera);
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
