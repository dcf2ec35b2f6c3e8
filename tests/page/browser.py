"""A visit to the page: what a person does there and what they see."""
from __future__ import annotations

import contextlib
import functools
import re
import sys
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Iterator
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "firmware" / "viewer" / "page"
WEIGHTS = ROOT / "mirnet_torch" / "weights"
SECONDS = 30_000
sys.path.insert(0, str(ROOT / "firmware" / "viewer"))  # as `python firmware/viewer` has it


class Visit:
    """One tab in a context of its own, as a context manager; it fails at its end if the page broke a promise.

    `script` runs in the tab before the page's own.
    """

    def __init__(self, chromium: Any, address: str, *, script: str = "", ready: str = "^Ready", **context: Any) -> None:
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self._origin = urlsplit(address).netloc
        self.context = chromium.new_context(viewport={"width": 1280, "height": 800}, **context)
        self.context.on("request", self._note)
        self.context.add_init_script(script)
        self.page = self.context.new_page()
        self.page.set_default_timeout(SECONDS)
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(address)
        self.expect(ready)

    def _note(self, request: Any) -> None:
        if urlsplit(request.url).netloc not in (self._origin, "") or request.method != "GET":
            self.foreign.append(f"{request.method} {request.url}")

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.context.close()
        if kind is None:
            self.check()

    def check(self) -> None:
        """Fail if the console has errors or the page talked to another place."""
        errors, self.errors = self.errors, []
        assert not errors and not self.foreign, f"console: {errors}; requests: {self.foreign}"

    def expect(self, words: str) -> str:
        """Wait until the status, the rate or the fault has these words (a pattern); return that line."""
        line = self.page.locator("#words p").filter(has_text=re.compile(words)).first
        line.wait_for()
        return line.inner_text()

    def fault(self) -> str:
        """Return what is wrong, as the page says it."""
        return self.page.locator("#fault").inner_text()

    def check_access(self, state: str) -> None:
        """Fail if axe finds a serious fault, or the page is wider than its window."""
        self.page.evaluate((PAGE / "node_modules" / "axe-core" / "axe.min.js").read_text())
        found = self.page.evaluate("axe.run()")["violations"]
        assert not [fault for fault in found if fault["impact"] in ("serious", "critical")], state
        assert self.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, f"{state} does not fit"

    def open(self, path: Path) -> str:
        """Choose a photograph and wait until it is shown; return the status line."""
        self.page.set_input_files("#file", path)
        return self.expect(f"^{re.escape(path.name)}: .*megapixels|damaged|not a picture|at most|cannot")

    def save(self, folder: Path, button: str = "#save") -> Path:
        """Press a button that saves; return the file."""
        with self.page.expect_download() as download:
            self.page.click(button)
        path = folder / download.value.suggested_filename
        download.value.save_as(path)
        return path

    def expose(self, value: float) -> None:
        """Move the brightness slider."""
        self.page.evaluate("""(value) => {
            const slider = document.querySelector("#exposure");
            slider.value = value;
            slider.dispatchEvent(new Event("input"));
        }""", value)

    def pixels(self, canvas: str) -> np.ndarray:
        """Return what a canvas shows, uint8 (H, W, 3)."""
        shape, codes = self.page.evaluate("""(name) => {
            const canvas = document.querySelector(name), {width, height} = canvas;
            const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
            let text = "";
            for (let i = 0; i < data.length; i += 8192) text += String.fromCharCode(...data.subarray(i, i + 8192));
            return [[height, width, 4], text];
        }""", canvas)
        return np.frombuffer(codes.encode("latin-1"), np.uint8).reshape(shape)[..., :3]


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder; yield its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


def rgb(path: Path) -> np.ndarray:
    """Return the pixels of a file as they are, uint8 (H, W, 3)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def differences(one: np.ndarray, other: np.ndarray) -> tuple[float, int]:
    """Return the mean and the largest difference in levels."""
    assert one.shape == other.shape
    apart = np.abs(one.astype(int) - other)
    return float(apart.mean()), int(apart.max())


def write_film(path: Path) -> None:
    """Write ten pictures of 640x480 for the fake webcam: a dark cup that moves."""
    from skimage import data
    cup = np.asarray(Image.fromarray(data.coffee() // 6).resize((640, 480)).convert("YCbCr"))
    with open(path, "wb") as file:
        file.write(b"YUV4MPEG2 W640 H480 F30:1 Ip A1:1 C420jpeg\n")
        for i in range(10):
            moved = np.roll(cup, 8 * i, axis=1)
            planes = moved[..., 0], moved[::2, ::2, 1], moved[::2, ::2, 2]
            file.write(b"FRAME\n" + b"".join(plane.tobytes() for plane in planes))


def frame_after(visit: Visit, number: int) -> int:
    """Wait for a frame of at least this number; return its number."""
    patience = time.monotonic() + 60
    while True:
        assert time.monotonic() < patience, visit.page.locator("#words").inner_text()
        found = int(visit.expect(r"Board, frame \d+").split("frame ")[1].split(":")[0])
        if found >= number:
            return found
        visit.page.wait_for_timeout(50)


def until(visit: Visit, holds: Callable[[], bool]) -> None:
    """Wait until something holds of the frames; those that were on their way when it was asked for come first."""
    patience = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < patience, visit.page.locator("#words").inner_text()
        frame_after(visit, frame_after(visit, 0) + 1)


def stands_still(visit: Visit) -> bool:
    """Return whether the dark frame stays as it is; the camera's frames move."""
    still = visit.pixels("#before")
    frame_after(visit, frame_after(visit, 0) + 2)
    return np.array_equal(visit.pixels("#before"), still)
