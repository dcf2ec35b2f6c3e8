// The large picture: the dark one left of the divider, the bright one right of it.

const element = (id) => document.getElementById(id);
const view = element("view"), stack = element("stack"), divider = element("divider"), before = element("before"), after = element("after");

divider.addEventListener("input", place);
for (const kind of ["pointerdown", "pointermove"]) {
  stack.addEventListener(kind, (event) => {
    if (kind === "pointermove" && !event.buttons) return;
    const box = after.getBoundingClientRect();
    divider.value = 100 * (event.clientX - box.left) / box.width;
    place();
  });
}

function place() {
  stack.style.setProperty("--at", `${divider.value}%`);
  divider.setAttribute("aria-valuetext", `${Math.round(divider.value)} % of the picture is before`);
}

/** Show pictures {data, width, height}; one that is left out stays. */
export function show({before: dark, after: bright}) {
  element("empty").hidden = true;
  view.hidden = false;
  for (const [canvas, picture] of [[before, dark], [after, bright]]) if (picture) draw(canvas, picture);
  stack.style.setProperty("--ratio", after.width / after.height);
}

/** Draw a picture on a canvas, which gets its size. */
export function draw(canvas, {data, width, height}) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, {width, height});
  canvas.getContext("2d").putImageData(new ImageData(data, width, height), 0, 0);
}

/** Show no picture. */
export function clear() {
  element("empty").hidden = false;
  view.hidden = true;
}

/** Return the bright picture as a PNG file. */
export const shownAsPng = () => new Promise((resolve) => after.toBlob(resolve, "image/png"));
