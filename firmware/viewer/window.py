"""The live window: the dark frame left, what the board made of it right."""
from __future__ import annotations

import queue
import threading
import tkinter
from typing import Iterator

import numpy as np
from link import HEIGHT, WIDTH, Picture

ZOOM = 4  # screen pixels along the side of one of the camera
POLL_MILLISECONDS = 30


def show(updates: Iterator[Picture | str]) -> None:
    """Show pictures and lines of text as they come, until the window is closed.

    Args:
        updates: iterated over in a thread of its own. What it raises is raised here.
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
    canvas = tkinter.Label(window, background="black", width=2 * ZOOM * WIDTH, height=ZOOM * HEIGHT, image=_image(None))
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


def _image(picture: Picture | None) -> tkinter.PhotoImage:
    both = np.zeros((HEIGHT, 2 * WIDTH, 3), np.uint8) if picture is None else np.hstack([picture.dark, picture.bright])
    ppm = f"P6 {both.shape[1]} {both.shape[0]} 255\n".encode() + both.tobytes()
    return tkinter.PhotoImage(data=ppm).zoom(ZOOM)
