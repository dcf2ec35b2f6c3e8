"""An OV7675 on the bus and on the pins: registers that a driver writes, and pictures that come out byte by byte.

The timing is that of the camera library's 5 frames a second: a byte takes a microsecond, PCLK is low in its first half,
and every fourth line of the sensor's 510 becomes a row of 160 pixels. The camera's clock goes on with every reading of
its port, so that a reader of up to 16 cycles a reading loses no byte, and takes the processor's time along.
"""
from __future__ import annotations

from typing import Callable

import numpy as np
from core import CLOCK_HZ, Core
from exceptions import Crash

SLAVE = 0x21
IDENTITY = {0x0A: 0x76, 0x0B: 0x73, 0x1C: 0x7F, 0x1D: 0xA2}  # PID, VER, MIDH, MIDL
COM7, TSLB, COM13 = 0x12, 0x3A, 0x3D
ROW, HEIGHT = 320, 120  # bytes in a row, rows
BYTE = CLOCK_HZ // 1_000_000  # cycles
LINE = 784 * 2 * BYTE // 4  # of the sensor; a row comes every four lines
ROW_START, FRAME, VSYNC = 20 * LINE, 510 * LINE, 3 * LINE
READING = 16  # cycles
IDLE_READINGS = 4  # without a change before time jumps to the next edge
VSYNC_PIN, HREF_PIN, PCLK_PIN = 1 << 21, 1 << 5, 1 << 4  # of port 0: the TinyML kit's D8, A1, A0
SIGNALS = VSYNC_PIN | HREF_PIN | PCLK_PIN
DATA_PINS = 0xFC0C  # of port 1: 2, 3 and 10 to 15

Pictures = Callable[[], "bytes | None"]


class Camera:
    """The chip.

    Args:
        core: whose time the camera lives in.
        pictures: returns a frame of 160x120 pixels as YUYV, or None while the camera is silent. It is asked as VSYNC
            rises.
        clocked: says whether the board drives XCLK; without it the chip does nothing.
    """

    def __init__(self, core: Core, pictures: Pictures, clocked: Callable[[], bool]) -> None:
        self._core, self._pictures, self._clocked = core, pictures, clocked
        self.registers = dict(IDENTITY)
        self.played: list[bytes] = []  # the last frames that came out, as they were on the wires
        self._register, self._fresh = 0, False
        self._now = 0
        self._frame: bytes | None = None
        self._number = -1
        self._last, self._idle = -1, 0

    # On the bus.

    def start(self) -> None:
        """A message begins. A read continues at the register that the write before it has named."""
        self._fresh = True

    def take(self, value: int) -> None:
        """Take the number of a register, then its value."""
        if self._fresh:
            self._register, self._fresh = value, False
        elif self._clocked():
            if self._register == COM7 and value & 0x80:
                self.registers = dict(IDENTITY)
            elif self._register not in IDENTITY:
                self.registers[self._register] = value

    def give(self) -> int:
        """Return the value of the register."""
        return self.registers.get(self._register, 0)

    # On the pins.

    def inputs(self, port: int) -> tuple[int, int]:
        """Return which pins the camera drives, and their levels."""
        self._now = max(self._now + READING, self._core.now)
        self._core.skip(self._now - self._core.now)
        at = self._position()
        if port == 1:
            byte = self._sent(at)
            value = 0 if byte is None or self._frame is None else self._frame[byte]
            return DATA_PINS, (value & 3) << 2 | (value & 0xFC) << 8
        levels = self._signals(at)
        self._idle = self._idle + 1 if levels == self._last else 0
        self._last = levels
        if self._idle >= IDLE_READINGS and not levels & HREF_PIN:
            self._core.wait(self._edge(at) - at - READING)
        return SIGNALS, levels

    def _position(self) -> int:
        """Return where in its frame the camera is, in cycles; a new frame asks for a picture."""
        number, at = divmod(self._now, FRAME)
        if number != self._number:
            self._number = number
            picture = self._pictures() if self._clocked() else None
            self._frame = None if picture is None else self._on_the_wires(picture)
            if self._frame is not None:
                self.played = [*self.played[-3:], self._frame]
        return at

    def _on_the_wires(self, picture: bytes) -> bytes:
        """Return a frame in the format and the order that the registers choose."""
        if self.registers.get(COM7, 0) & 5:
            raise Crash("the driver has chosen RGB, and only pictures in YUV 4:2:2 can be played")
        order = {(0, 0): (0, 1, 2, 3), (0, 1): (0, 3, 2, 1), (1, 0): (1, 0, 3, 2), (1, 1): (1, 2, 3, 0)}[
            self.registers.get(TSLB, 0x0C) >> 3 & 1, self.registers.get(COM13, 0x88) & 1]
        return np.frombuffer(picture, np.uint8).reshape(-1, 4)[:, order].tobytes()

    @staticmethod
    def _sent(at: int) -> int | None:
        """Return which byte is on the wires, or None."""
        row, within = divmod(at - ROW_START, 4 * LINE)
        return row * ROW + within // BYTE if 0 <= row < HEIGHT and within < ROW * BYTE else None

    def _signals(self, at: int) -> int:
        if self._frame is None:
            return 0
        if at < VSYNC:
            return VSYNC_PIN
        if self._sent(at) is None:
            return 0
        return HREF_PIN | (PCLK_PIN if (at - ROW_START) % (4 * LINE) % BYTE >= BYTE // 2 else 0)

    @staticmethod
    def _edge(at: int) -> int:
        """Return when VSYNC or HREF next changes, from a place outside the rows."""
        if at < VSYNC:
            return VSYNC
        row = max(0, -(-(at - ROW_START) // (4 * LINE)))
        return ROW_START + row * 4 * LINE if row < HEIGHT else FRAME
