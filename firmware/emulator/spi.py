"""SPI, the nRF52840's serial interface without EasyDMA, which mbed uses."""
from __future__ import annotations

from collections import deque
from typing import Callable

from core import Core
from nrf52840 import Peripheral

READY, RXD, TXD = 0x108, 0x518, 0x51C
Wired = Callable[[int], int]  # takes the byte that the board sends and returns the one that it receives
IDLE = 0xFF  # what a wire reads that nothing drives


class Spi(Peripheral):
    """The interface as master. A byte takes no time.

    Two bytes may be sent before one is read: the second arrives when RXD has been read.
    """

    def __init__(self, core: Core, number: int, wired: Wired | None) -> None:
        super().__init__(core, number)
        self._wired = wired or (lambda value: IDLE)
        self._received: deque[int] = deque()  # the first of them is in RXD

    def read(self, offset: int) -> int:
        if offset != RXD or not self._received:
            return super().read(offset)
        self.registers[RXD] = self._received.popleft()
        if self._received:
            self.happen(READY)
        return self.registers[RXD]

    def write(self, offset: int, value: int) -> None:
        super().write(offset, value)
        if offset == TXD:
            self._received.append(self._wired(value & 0xFF))
            if len(self._received) == 1:
                self.happen(READY)
