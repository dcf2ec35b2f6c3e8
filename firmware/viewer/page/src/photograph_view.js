// Photographs: drop, choose or paste one, change its brightness, save it.

import {ask} from "./client.js";
import {draw, show} from "./compare.js";
import {complain, download, say} from "./say.js";

const element = (id) => document.getElementById(id);
const chooser = element("file");
const chip = element("chip"), chipButton = element("show-chip");
let busy = false;

/**
 * Set photographs up.
 *
 * @param {{exposure: () => number, opened: () => void}} page the slider's value in EV; called when one is shown
 */
export function photographs({exposure, opened}) {
  async function open(file) {
    if (busy) return say("One moment: the last photograph is still being opened.");
    busy = true;
    say(`Opening ${file.name} …`);
    try {
      const started = performance.now();
      const {width, height, before, after} = await ask("open", {file, exposure: exposure()});
      showChip(false);
      show({before, after});
      opened();
      const seconds = (performance.now() - started) / 1000;
      say(`${file.name}: ${width}×${height}, ${(width * height / 1e6).toFixed(1)} megapixels in ${seconds.toFixed(1)} s`);
    } catch (error) {
      complain(error.message);
    } finally {
      busy = false;
      chooser.value = "";
    }
  }

  function showChip(shown) {
    chipButton.setAttribute("aria-pressed", shown);
    chip.hidden = !shown;
    element("view").hidden = shown;
  }

  async function computeChip() {
    const {dark, float, int8, difference, mean, largest} = await ask("chip", {exposure: exposure()});
    for (const [name, picture] of Object.entries({dark, float, int8, difference})) draw(element(`chip-${name}`), picture);
    element("chip-words").textContent = "The board's int8 model on a frame of 160×120, byte for byte: it differs "
      + `from floating point by ${mean.toFixed(2)} levels of 255 in the mean and ${largest} at most.`;
  }

  chipButton.addEventListener("click", async () => {
    try {
      if (chip.hidden) await computeChip();
      else show(await ask("expose", {exposure: exposure()}));
      showChip(chip.hidden);
    } catch (error) {
      complain(error.message);
    }
  });
  chooser.addEventListener("change", () => chooser.files.length && open(chooser.files[0]));
  for (const button of document.querySelectorAll(".open")) button.addEventListener("click", () => chooser.click());
  window.addEventListener("dragover", (event) => event.preventDefault());
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file) open(file);
    else complain("That was no file: drop a JPEG, PNG or WebP file.");
  });
  window.addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) open(file);
    else complain("There is no picture in the clipboard: copy one first.");
  });
  return {
    async expose() {
      if (chip.hidden) show(await ask("expose", {exposure: exposure()}));
      else await computeChip();
    },
    stop: () => showChip(false),
    async save(type) {
      say("Saving …");
      const started = performance.now();
      const {blob, name} = await ask("save", {exposure: exposure(), type});
      download(blob, name);
      say(`${name} is saved (${((performance.now() - started) / 1000).toFixed(1)} s).`);
    },
  };
}
