// The page: which source is shown, and the controls that all sources share.

import {board, bridged} from "./board_view.js";
import {webcam} from "./camera_view.js";
import {ask} from "./client.js";
import {clear} from "./compare.js";
import {photographs} from "./photograph_view.js";
import {complain, say} from "./say.js";

const element = (id) => document.getElementById(id);
const slider = element("exposure"), shown = element("exposure-value");
const sources = {};
let source = null; // "photograph", "webcam", "board", or null while nothing is shown

const exposure = () => Number(slider.value);

sources.photograph = photographs({exposure, opened: () => use("photograph")});
sources.webcam = webcam({exposure, opened: () => use("webcam")});
sources.board = board({exposure, opened: () => use("board")});

/** Show a source; all others stop, a board that has not come yet among them. */
function use(name) {
  for (const other of Object.keys(sources)) if (other !== name) sources[other].stop();
  source = name;
  element("self-test-words").textContent = "";
  for (const id of ["save", "save-png", "exposure"]) element(id).disabled = !name;
  for (const id of ["save-png", "show-chip"]) element(id).hidden = name !== "photograph";
  if (!name) clear();
}

let exposing = false, waiting = false;
slider.addEventListener("input", async () => {
  shown.textContent = words(exposure());
  slider.setAttribute("aria-valuetext", words(exposure()));
  waiting = true;
  if (exposing) return;
  exposing = true;
  while (waiting) { // of all positions that the slider passes, the last one counts
    waiting = false;
    await attempt(() => sources[source]?.expose?.());
  }
  exposing = false;
});
element("save").addEventListener("click", () => attempt(() => sources[source].save()));
element("save-png").addEventListener("click", () => attempt(() => sources[source].save("image/png")));

const words = (value) => `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(2)} EV`;

async function attempt(action) {
  try {
    await action();
  } catch (error) {
    complain(error.message);
  }
}

/** Make the page work offline. Not at the bridge: its port is other projects' too, and a new build is to be seen at once. */
async function keep() {
  if (!bridged) await navigator.serviceWorker?.register("sw.js");
  else if (await (await navigator.serviceWorker?.getRegistration())?.unregister()) location.reload();
}

keep().catch(() => {}); // it works without, but online

use(null);
say("Loading the network …");
await attempt(async () => {
  await ask("load");
  say("Ready. Your pictures stay on this computer.");
});
