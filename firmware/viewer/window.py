"""The live window: the dark frame on the left, the bright one on the right."""
from __future__ import annotations

import queue
import threading
import tkinter
from typing import Iterator

import numpy as np
from link import Picture

PICTURE_WIDTH = 640  # screen pixels of one picture, about
POLL_MILLISECONDS = 30


def show(updates: Iterator[Picture | str]) -> None:
    """Show pictures and lines of text as they arrive, until the window is closed.

    Args:
        updates: read in a thread of its own. An exception that it raises is raised here.
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

    window = tkinter.Tk()
    window.title("MIRNet on a Nano 33 BLE Sense")
    canvas = tkinter.Label(window, background="black")  # as large as its picture
    line = tkinter.Label(window, anchor="w", text="waiting for the first frame")
    canvas.pack()
    line.pack(fill="x")
    failure: list[BaseException] = []

    def update() -> None:
        while not arrived.empty():
            news = arrived.get()
            if isinstance(news, str):
                line["text"] = news
            elif isinstance(news, Picture):
                canvas.image = _image(news)  # type: ignore[attr-defined]  # tkinter itself keeps no reference
                canvas["image"] = canvas.image  # type: ignore[attr-defined]
            else:
                failure.extend([news] if news else [])
                window.destroy()
                return
        window.after(POLL_MILLISECONDS, update)

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    update()
    window.mainloop()
    closed.set()
    if failure:
        raise failure[0]


def _image(picture: Picture) -> tkinter.PhotoImage:
    both = np.hstack([picture.dark, picture.bright])
    ppm = f"P6 {both.shape[1]} {both.shape[0]} 255\n".encode() + both.tobytes()
    return tkinter.PhotoImage(data=ppm).zoom(max(1, PICTURE_WIDTH // picture.dark.shape[1]))
