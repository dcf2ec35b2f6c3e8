// The webcam, live: every picture as the network brightens it.

import {ask} from "./client.js";
import {show, shownAsPng} from "./compare.js";
import {complain, download, say, sayRate} from "./say.js";

const SIZE = {width: {ideal: 640}, height: {ideal: 480}};
const REASONS = {
  NotAllowedError: "The browser was not allowed to use the webcam: allow it in the address bar and try again.",
  NotFoundError: "There is no webcam: plug one in and try again.",
  NotReadableError: "The webcam is in use: close the other program and try again.",
};
const button = document.getElementById("webcam");

/** Set the webcam up; `opened` is called when its first picture is about to be shown. */
export function webcam({exposure, opened}) {
  let stream = null, starting = false;

  async function start() {
    if (!navigator.mediaDevices) return complain("This page needs https or localhost for the webcam.");
    if (starting) return; // the browser asks the visitor
    starting = true;
    const video = document.createElement("video");
    let mine = null;
    try {
      mine = await navigator.mediaDevices.getUserMedia({video: SIZE});
      Object.assign(video, {srcObject: mine, muted: true, playsInline: true});
      await video.play();
    } catch (error) {
      end(mine);
      return complain(REASONS[error.name] ?? `The webcam cannot be read: ${error.message}`);
    } finally {
      starting = false;
    }
    stream = mine;
    for (const track of mine.getTracks()) {
      track.addEventListener("ended", () => {
        if (stream !== mine) return;
        stop();
        complain("The webcam was unplugged.");
      });
    }
    opened();
    label();
    say("The webcam is on.");
    let pictures = 0, since = performance.now();
    for (;;) {
      // Once for a picture of the webcam, where the browser can tell. A page in the background does nothing.
      await new Promise((next) => video.requestVideoFrameCallback?.(next) ?? requestAnimationFrame(next));
      if (stream !== mine) return;
      const bitmap = await createImageBitmap(video);
      const {before, after} = await ask("frame", {bitmap, exposure: exposure()}, [bitmap]);
      if (stream !== mine) return;
      show({before, after});
      pictures++;
      const seconds = (performance.now() - since) / 1000;
      if (seconds >= 1) {
        sayRate(`Webcam ${before.width}×${before.height}: ${(pictures / seconds).toFixed(1)} frames a second`);
        pictures = 0;
        since = performance.now();
      }
    }
  }

  function stop() {
    end(stream);
    stream = null;
    label();
    sayRate();
  }

  function label() {
    button.textContent = stream ? "Stop webcam" : "Webcam";
  }

  button.addEventListener("click", () => {
    if (stream) {
      stop();
      say("The webcam has stopped.");
    } else {
      start().catch((error) => {
        stop();
        complain(error.message);
      });
    }
  });
  return {stop, save: async () => download(await shownAsPng(), "webcam.png")};
}

/** Switch a webcam off. */
function end(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}
