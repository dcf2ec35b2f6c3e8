"""An emulated board behind a pseudo-terminal, which the viewer opens like the port of a real one."""
from __future__ import annotations

import contextlib
import itertools
import os
import select
import tempfile
import threading
import time
import tty
from pathlib import Path
from typing import Callable

import numpy as np
from core import CLOCK_HZ
from machine import Machine
from pin_camera import Pictures

STEP = 0.002  # seconds of the board between looks at the terminal
STARTS = 10  # seconds of the board that setup() takes at most
OUTGOING = 4096  # bytes that wait for the board at most


class Plugged:
    """A board that is plugged in. `port` names its port; `machine` is the board, for those who stop it first.

    Args:
        program: the ELF of the sketch.
        pictures: what the camera sees, see `Camera`.
        fast: as fast as this computer can; otherwise never faster than the board.
        report: is called with one line when the board crashes.

    Raises:
        ElfError: this is no program for the board.
    """

    def __init__(self, program: Path, pictures: Pictures | None = None, *, fast: bool = True,
                 report: Callable[[str], None] = print) -> None:
        self.machine = Machine(program, pictures)
        self._fast, self._report = fast, report
        self._folder = tempfile.TemporaryDirectory(prefix="mirnet-")
        self._ends = False
        self.crash: Exception | None = None
        self._board_end, computer_end = os.openpty()
        os.set_blocking(self._board_end, False)
        tty.setraw(computer_end)
        self.port = str(Path(self._folder.name) / "port")
        os.symlink(os.ttyname(computer_end), self.port)
        os.close(computer_end)  # so that the board sees when a viewer has opened it
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when the board has a serial port and its LED is green, has stopped, or has taken too long."""
        machine = self.machine
        while self.crash is None and machine.core.cycles < STARTS * CLOCK_HZ:
            if machine.host.ready and machine.leds() == {"green"}:
                return
            time.sleep(0.01)

    def close(self) -> None:
        """Unplug the board."""
        self._ends = True
        self._thread.join()
        with contextlib.suppress(OSError):
            os.unlink(self.port)
        os.close(self._board_end)
        self._folder.cleanup()

    def _run(self) -> None:
        start, began = time.monotonic(), self.machine.core.cycles
        try:
            while not self._ends:
                self._exchange()
                self.machine.run(STEP)
                ahead = (self.machine.core.cycles - began) / CLOCK_HZ - (time.monotonic() - start)
                if ahead < -1:  # this computer is slower: do not hurry later
                    start, began = time.monotonic(), self.machine.core.cycles
                elif ahead > 0 and not self._fast:
                    time.sleep(ahead)
        except Exception as error:
            self.crash = error
            self._report(f"the emulated board has stopped: {error}")
            os.unlink(self.port)

    def _exchange(self) -> None:
        """Move bytes between terminal and cable; the terminal hangs up while no program has its other end open."""
        host = self.machine.host
        poll = select.poll()
        poll.register(self._board_end, select.POLLIN | select.POLLOUT)
        [(_, ready)] = poll.poll(0) or [(0, 0)]
        opened = not ready & select.POLLHUP
        if opened != host.wants_open:
            host.open(opened)
        if not opened:
            host.incoming.clear()
            return
        if ready & select.POLLIN and len(host.outgoing) < OUTGOING:
            host.outgoing += os.read(self._board_end, OUTGOING)
        if ready & select.POLLOUT and host.incoming:
            with contextlib.suppress(BlockingIOError):
                sent = os.write(self._board_end, bytes(host.incoming[:1024]))
                del host.incoming[:sent]
        host.listens = len(host.incoming) < OUTGOING


def moving_scene() -> Callable[[], bytes]:
    """Return a camera's view that moves from frame to frame: dark bars of all hues over a ramp, YUYV."""
    across, down = np.meshgrid(np.arange(160), np.arange(120))
    frame = np.empty((120, 160, 2), np.uint8)
    frame[..., 0] = 4 + across // 4 + 12 * (across // 20 % 2)
    frame[:, ::2, 1] = 108 + down[:, ::2] // 3
    frame[:, 1::2, 1] = 148 - down[:, 1::2] // 3
    return lambda shifts=itertools.count(step=2): np.roll(frame, -next(shifts), axis=1).tobytes()  # type: ignore[misc]
