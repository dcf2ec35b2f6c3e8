"""The live window: the dark frame on the left, the bright one on the right, lines of text and the keys below."""
from __future__ import annotations

import dataclasses
import queue
import threading
import time
import tkinter
from pathlib import Path
from typing import Iterator

from camera import CEILINGS, NIGHTS, CameraSettings
from link import EXPOSURE_STEPS, LARGEST_EXPOSURE, InputError, Picture
from pictures import LABEL_HEIGHT, save_gif, save_picture, side_by_side
from PIL import Image

WIDTH = 1280  # screen pixels of both pictures at the start, about
POLL_MILLISECONDS = 30
LONGEST_SHOWN = 5000  # milliseconds of a picture in a recording
SILENT_SECONDS = 3  # without a picture, before the window says so
KEYS = "+ - brightness    m mirror    f flip    n night    [ ] gain    s save    space pause    r record    q quit"


class Window:
    """What the window shows and what its keys do; `receive` takes what has arrived.

    Args:
        exposure: a list of one number, the steps of 1/8 EV, which the keys change.
        camera: a list of the camera's settings, likewise.
        folder: where pictures and recordings go.
    """

    def __init__(self, exposure: list[int], folder: Path = Path(), camera: list[CameraSettings] | None = None) -> None:
        self.root = tkinter.Tk()
        self.root.title("MIRNet on a Nano 33 BLE Sense")
        self.canvas = tkinter.Label(self.root, background="black")
        self.line = tkinter.Label(self.root, anchor="w", text="waiting for the first frame")
        self.said = tkinter.Label(self.root, anchor="w")  # by the last key; `line` changes with every picture
        self.keys = tkinter.Label(self.root, anchor="w", foreground="gray40", text=KEYS)
        for label in (self.keys, self.said, self.line):
            label.pack(side="bottom", fill="x")
        self.canvas.pack(fill="both", expand=True)
        self.picture: Picture | None = None
        self.paused = False
        self.recording: list[tuple[float, Image.Image]] | None = None
        self._exposure, self._folder, self._camera = exposure, folder, camera or [CameraSettings()]
        self._heard_at = time.monotonic()
        for key, action in (("plus", self.brighter), ("equal", self.brighter), ("KP_Add", self.brighter),
                            ("Up", self.brighter), ("minus", self.darker), ("KP_Subtract", self.darker),
                            ("Down", self.darker), ("m", self.mirror), ("f", self.flip), ("n", self.night),
                            ("bracketleft", lambda: self.ceiling(-1)), ("bracketright", lambda: self.ceiling(1)),
                            ("s", self.save), ("space", self.pause), ("r", self.record), ("q", self.close)):
            self.root.bind(f"<{key}>", lambda event, action=action: action())  # type: ignore[misc]
        self.root.protocol("WM_DELETE_WINDOW", self.close)
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
            self.root.geometry(f"{2 * width}x{height + LABEL_HEIGHT + self.line.winfo_reqheight() * 3}")
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

    def mirror(self) -> None:
        self._set(mirror=not self._camera[0].mirror)

    def flip(self) -> None:
        self._set(flip=not self._camera[0].flip)

    def night(self) -> None:
        """Let frames in the dark take twice as long, up to 8 times, then as long as by day again."""
        self._set(night=NIGHTS[(NIGHTS.index(self._camera[0].night) + 1) % len(NIGHTS)])

    def ceiling(self, steps: int) -> None:
        """Double or halve the highest automatic gain."""
        at = CEILINGS.index(self._camera[0].ceiling) + steps
        self._set(ceiling=CEILINGS[max(0, min(len(CEILINGS) - 1, at))])

    def _set(self, **settings: int) -> None:
        self._camera[0] = dataclasses.replace(self._camera[0], **settings)
        self.said["text"] = "camera: " + ", ".join(f"{name} {value:d}" for name, value in settings.items())

    def pause(self) -> None:
        """Hold the picture, or go on; the board goes on meanwhile."""
        self.paused = not self.paused
        self.said["text"] = "paused: space goes on" if self.paused else "going on"

    def save(self) -> None:
        """Write both frames as PNG files."""
        if self.picture is not None:
            name = f"{time.strftime('%Y%m%d-%H%M%S')}-{self.picture.number:06d}"
            self._write(lambda: ", ".join(path.name for path in save_picture(self.picture, self._folder, name)))

    def record(self) -> None:
        """Begin to record, or stop and write a GIF."""
        if self.recording is None:
            self.recording = []
            self.said["text"] = "recording: r stops"
            return
        frames, self.recording = self.recording, None
        if not frames:
            self.said["text"] = "no picture has come to record"
            return
        times = [at for at, _ in frames] + [time.monotonic()]
        shown = [min(LONGEST_SHOWN, round(1000 * (end - at))) for at, end in zip(times, times[1:])]
        path = self._folder / f"{time.strftime('%Y%m%d-%H%M%S')}.gif"

        def write() -> str:
            save_gif(path, [image for _, image in frames], shown)
            return f"{path.name} ({len(frames)} pictures)"

        self._write(write)

    def close(self) -> None:
        """End; a recording is written first. If that fails the window stays once, and says why."""
        if self.recording:
            self.record()
            if not self.said["text"].startswith("saved"):
                return
            print(self.said["text"])
        self.root.destroy()

    def _write(self, write) -> None:
        try:
            self.said["text"] = f"saved {write()}"
        except InputError as error:
            self.said["text"] = str(error)

    def _expose(self, steps: int) -> None:
        self._exposure[0] = max(-LARGEST_EXPOSURE, min(LARGEST_EXPOSURE, self._exposure[0] + steps))
        self.said["text"] = f"exposure {self._exposure[0] / EXPOSURE_STEPS:+.3f} EV from the next frame on"
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


def show(updates: Iterator[Picture | str], exposure: list[int], camera: list[CameraSettings]) -> None:
    """Show pictures and lines of text as they arrive, until the window is closed.

    Args:
        updates: read in a thread of its own. An exception that it raises is raised here.
        exposure: a list of one number, the steps of 1/8 EV, which the keys change.
        camera: a list of the camera's settings, likewise.
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

    window = Window(exposure, camera=camera)
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
