"""The board's pictures as they come, whatever happens to its plug and its camera."""
from __future__ import annotations

import contextlib
import time
from typing import Callable, Generator

from camera import CameraSettings
from link import Link, LinkError, Picture, Unplugged

RETRY_SECONDS = 0.5  # between attempts to find a port that is gone


def watch(find: Callable[[], str], *, test_picture: bool = False, frames: int | None = None,
          exposure: Callable[[], int] = lambda: 0, camera: Callable[[], CameraSettings] = CameraSettings
          ) -> Generator[Picture | str, None, None]:
    """Yield the board's pictures and, as text, their rate; wait while the board is unplugged and say so.

    Args:
        find: returns the port, or raises LinkError while there is none.
        test_picture: stream the sketch's test picture instead of the camera's frames.
        frames: stop after so many pictures.
        exposure: returns the steps of 1/8 EV by which pictures shall be brighter; asked before every picture.
        camera: returns the settings of the camera; asked likewise.

    Raises:
        LinkError: the board reports a problem, or is absent at the start.
    """
    count, link = 0, Link(find())
    try:
        while True:
            try:
                steps = exposure()
                link.set_exposure(steps)
                settings = camera()
                if not test_picture:
                    link.set_camera(settings)
                started = time.monotonic()
                with contextlib.closing(link.stream(test_picture=test_picture)) as pictures:
                    for picture in pictures:
                        took = time.monotonic() - started
                        if isinstance(picture, str):
                            yield f"{picture} (camera silent for {took:.0f} s)"
                            continue
                        started += took
                        count += 1
                        yield picture
                        yield (f"frame {picture.number}: {1 / took:.2f} frames/s (camera {picture.capture_seconds:.3f} "
                               f"s, model {picture.enhance_seconds:.3f} s)")
                        if count == frames:
                            return
                        if steps != exposure():
                            steps = exposure()
                            link.set_exposure(steps, wait=False)
                        if settings != camera():
                            settings = camera()
                            link.set_camera(settings, wait=False)
            except Unplugged as error:
                yield f"{error}: waiting for it to come back"
                link.close()
                link = yield from _reopen(find)
                yield f"{link.port} is back"
    finally:
        link.close()


def _reopen(find: Callable[[], str]) -> Generator[str, None, Link]:
    """Return the board once it is back; yield what else is in the way."""
    said = ""
    while True:
        try:
            return Link(find())
        except Unplugged:
            said = ""
        except LinkError as error:
            if str(error) != said:
                said = str(error)
                yield said
        time.sleep(RETRY_SECONDS)
