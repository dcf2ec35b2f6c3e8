// What the page says to its visitor. Screen readers read the status and the fault aloud, but not the rate, which changes
// with every picture.

const [status, rate, fault] = ["status", "rate", "fault"].map((id) => document.getElementById(id));

/** Say how things are. */
export function say(text) {
  status.textContent = text;
}

/** Say how fast pictures arrive; nothing when they have ended. */
export function sayRate(text = "") {
  rate.textContent = text;
}

/**
 * Say what is wrong. It stays until the visitor does something, or until `settle` of the same kind.
 *
 * @param {string} text
 * @param {string} [kind] what has failed, if it may get well by itself
 */
export function complain(text, kind = "") {
  say("");
  fault.dataset.kind = kind;
  if (fault.textContent !== text) fault.textContent = text; // else it is read aloud again
}

/** Take back a complaint of this kind. */
export function settle(kind) {
  if (fault.dataset.kind === kind) fault.textContent = "";
}

for (const event of ["click", "change", "input", "drop", "paste"]) {
  window.addEventListener(event, () => { fault.textContent = ""; }, {capture: true}); // before what it does can fail
}

/** Give a file to the visitor, as a download. */
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
