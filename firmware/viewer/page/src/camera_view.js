// The webcam, live: every picture as the network brightens it.

import {ask} from "./client.js";
import {show, shownAsPng} from "./compare.js";
import {complain, download, say} from "./say.js";

const SIZE = {width: {ideal: 640}, height: {ideal: 480}};
const REASONS = {
  NotAllowedError: "The browser was not allowed to use the webcam: allow it in the address bar and try again.",
  NotFoundError: "There is no webcam: plug one in and try again.",
  NotReadableError: "The webcam is in use: close the other program and try again.",
};
const button = document.getElementById("webcam");

/** Set the webcam up; `opened` is called when its first picture is about to be shown. */
export function webcam({exposure, opened}) {
  let stream = null;

  async function start() {
    if (!navigator.mediaDevices) return complain("This page needs https or localhost for the webcam.");
    const video = document.createElement("video");
    try {
      stream = await navigator.mediaDevices.getUserMedia({video: SIZE});
      Object.assign(video, {srcObject: stream, muted: true, playsInline: true});
      await video.play();
    } catch (error) {
      stop();
      return complain(REASONS[error.name] ?? `The webcam cannot be read: ${error.message}`);
    }
    const mine = stream;
    for (const track of mine.getTracks()) {
      track.addEventListener("ended", () => {
        if (stream !== mine) return;
        stop();
        complain("The webcam was unplugged.");
      });
    }
    opened();
    label();
    let pictures = 0, shownAt = -1, since = performance.now();
    while (stream === mine) {
      await new Promise(requestAnimationFrame); // so a page in the background does nothing
      if (stream !== mine) return;
      if (video.currentTime === shownAt) continue;
      shownAt = video.currentTime;
      const bitmap = await createImageBitmap(video);
      const {before, after} = await ask("frame", {bitmap, exposure: exposure()}, [bitmap]);
      if (stream !== mine) return;
      show({before, after});
      pictures++;
      const seconds = (performance.now() - since) / 1000;
      if (seconds >= 1) {
        say(`Webcam ${before.width}×${before.height}: ${(pictures / seconds).toFixed(1)} frames a second`);
        pictures = 0;
        since = performance.now();
      }
    }
  }

  function stop() {
    for (const track of stream?.getTracks() ?? []) track.stop();
    stream = null;
    label();
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
