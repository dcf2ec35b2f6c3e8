"""The live window: the dark frame on the left, the bright one on the right, a line of text and the keys below."""
from __future__ import annotations

import queue
import threading
import time
import tkinter
from pathlib import Path
from typing import Iterator

from link import EXPOSURE_STEPS, LARGEST_EXPOSURE, InputError, Picture
from pictures import LABEL_HEIGHT, save_gif, save_picture, side_by_side
from PIL import Image

WIDTH = 1280  # screen pixels of both pictures at the start, about
POLL_MILLISECONDS = 30
LONGEST_SHOWN = 5000  # milliseconds of a picture in a recording
SILENT_SECONDS = 3  # without a picture, before the window says so
KEYS = "+ - brightness    s save    space pause    r record    q quit"


class Window:
    """What the window shows and what its keys do; `receive` takes what has arrived.

    Args:
        exposure: a list of one number, the steps of 1/8 EV, which the keys change.
        folder: where pictures and recordings go.
    """

    def __init__(self, exposure: list[int], folder: Path = Path()) -> None:
        self.root = tkinter.Tk()
        self.root.title("MIRNet on a Nano 33 BLE Sense")
        self.canvas = tkinter.Label(self.root, background="black")
        self.line = tkinter.Label(self.root, anchor="w", text="waiting for the first frame")
        self.keys = tkinter.Label(self.root, anchor="w", foreground="gray40", text=KEYS)
        for label in (self.keys, self.line):
            label.pack(side="bottom", fill="x")
        self.canvas.pack(fill="both", expand=True)
        self.picture: Picture | None = None
        self.paused = False
        self.recording: list[tuple[float, Image.Image]] | None = None
        self._exposure, self._folder = exposure, folder
        self._heard_at = time.monotonic()
        for key, action in (("plus", self.brighter), ("equal", self.brighter), ("KP_Add", self.brighter),
                            ("Up", self.brighter), ("minus", self.darker), ("KP_Subtract", self.darker),
                            ("Down", self.darker), ("s", self.save), ("space", self.pause), ("r", self.record),
                            ("q", self.root.destroy)):
            self.root.bind(f"<{key}>", lambda event, action=action: action())  # type: ignore[misc]
        self.canvas.bind("<Configure>", lambda event: self._draw())

    def receive(self, news: Picture | str) -> None:
        """Show a picture or a line of text."""
        if isinstance(news, str):
            self.line["text"] = news
            return
        first, self._heard_at = self.picture is None, time.monotonic()
        if self.recording is not None:
            self.recording.append((self._heard_at, side_by_side(news, labels=self._labels())))
        if self.paused:
            return
        self.picture = news
        if first:
            height, width = (side * max(1, WIDTH // 2 // news.dark.shape[1]) for side in news.dark.shape[:2])
            self.root.geometry(f"{2 * width}x{height + LABEL_HEIGHT + self.line.winfo_reqheight() * 2}")
        self._draw()

    def watch_silence(self) -> None:
        """Say that no picture comes, if none has for some seconds."""
        silent = time.monotonic() - self._heard_at
        if silent > SILENT_SECONDS and self.picture is not None:
            self.line["text"] = f"{self.line['text'].partition(' [')[0]} [no picture for {silent:.0f} s]"

    def brighter(self) -> None:
        self._expose(1)

    def darker(self) -> None:
        self._expose(-1)

    def pause(self) -> None:
        """Hold the picture, or go on; the board goes on meanwhile."""
        self.paused = not self.paused
        self.line["text"] = "paused: space goes on" if self.paused else "going on"

    def save(self) -> None:
        """Write both frames as PNG files."""
        if self.picture is not None:
            name = f"{time.strftime('%Y%m%d-%H%M%S')}-{self.picture.number:06d}"
            self._write(lambda: ", ".join(path.name for path in save_picture(self.picture, self._folder, name)))

    def record(self) -> None:
        """Begin to record, or stop and write a GIF."""
        if self.recording is None:
            self.recording = []
            self.line["text"] = "recording: r stops"
            return
        frames, self.recording = self.recording, None
        if not frames:
            self.line["text"] = "no picture has come to record"
            return
        times = [at for at, _ in frames] + [time.monotonic()]
        shown = [min(LONGEST_SHOWN, round(1000 * (end - at))) for at, end in zip(times, times[1:])]
        path = self._folder / f"{time.strftime('%Y%m%d-%H%M%S')}.gif"

        def write() -> str:
            save_gif(path, [image for _, image in frames], shown)
            return f"{path.name} ({len(frames)} pictures)"

        self._write(write)

    def _write(self, write) -> None:
        try:
            self.line["text"] = f"saved {write()}"
        except InputError as error:
            self.line["text"] = str(error)

    def _expose(self, steps: int) -> None:
        self._exposure[0] = max(-LARGEST_EXPOSURE, min(LARGEST_EXPOSURE, self._exposure[0] + steps))
        self.line["text"] = f"exposure {self._exposure[0] / EXPOSURE_STEPS:+.3f} EV from the next frame on"
        self._draw()

    def _labels(self) -> tuple[str, str]:
        exposure = f", {self._exposure[0] / EXPOSURE_STEPS:+.3f} EV" if self._exposure[0] else ""
        return "dark: the camera's frame", f"bright: MIRNet on the board{exposure}"

    def _draw(self) -> None:
        if self.picture is None:
            return
        height, width = self.picture.dark.shape[:2]
        room = self.canvas.winfo_width() / (2 * width), (self.canvas.winfo_height() - LABEL_HEIGHT) / height
        image = side_by_side(self.picture, labels=self._labels(), scale=max(1.0, min(room)))
        ppm = f"P6 {image.width} {image.height} 255\n".encode() + image.tobytes()
        self.canvas.image = tkinter.PhotoImage(data=ppm)  # type: ignore[attr-defined]  # tkinter keeps no reference
        self.canvas["image"] = self.canvas.image  # type: ignore[attr-defined]


def show(updates: Iterator[Picture | str], exposure: list[int]) -> None:
    """Show pictures and lines of text as they arrive, until the window is closed.

    Args:
        updates: read in a thread of its own. An exception that it raises is raised here.
        exposure: a list of one number, the steps of 1/8 EV, which the keys change.
    """
    arrived: queue.Queue[Picture | str | BaseException | None] = queue.Queue()
    closed = threading.Event()

    def receive() -> None:
        try:
            for update in updates:
                arrived.put(update)
                if closed.is_set():
                    return
            arrived.put(None)
        except BaseException as error:
            arrived.put(error)

    window = Window(exposure)
    failure: list[BaseException] = []

    def update() -> None:
        while not arrived.empty():
            news = arrived.get()
            if news is None or isinstance(news, BaseException):
                failure.extend([news] if news else [])
                window.root.destroy()
                return
            window.receive(news)
        window.watch_silence()
        window.root.after(POLL_MILLISECONDS, update)

    threading.Thread(target=receive, daemon=True).start()
    update()
    window.root.mainloop()
    closed.set()
    if failure:
        raise failure[0]
