// What the page says to its visitor, in one line that screen readers read aloud.

const line = document.getElementById("status");

/** Say how things are. */
export function say(text) {
  line.className = "";
  line.textContent = text;
}

/** Say what is wrong. */
export function complain(text) {
  line.className = "fault";
  line.textContent = text;
}

/** Give a file to the visitor, as a download. */
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
