"""TWI, the nRF52840's two-wire interface without EasyDMA, which mbed uses, and what answers on the bus."""
from __future__ import annotations

from typing import Protocol

from core import Core
from nrf52840 import Peripheral

STOPPED, RECEIVED, SENT, ERROR, BYTE_BOUNDARY, SUSPENDED = 0x104, 0x108, 0x11C, 0x124, 0x138, 0x148
SHORTS, ERROR_SOURCE, ENABLE, RXD, TXD, ADDRESS = 0x200, 0x4C4, 0x500, 0x518, 0x51C, 0x588
ADDRESS_NACK = 2


class Slave(Protocol):
    """A chip on the bus."""

    def start(self) -> None:
        """A message to or from the chip begins."""

    def take(self, value: int) -> None:
        """Take a byte."""

    def give(self) -> int:
        """Return the next byte."""


class Twi(Peripheral):
    """One of the two interfaces. A byte takes no time."""

    def __init__(self, core: Core, number: int, slaves: dict[int, Slave]) -> None:
        super().__init__(core, number)
        self._slaves = slaves  # by their addresses of seven bits
        self._slave: Slave | None = None
        self._receives = False

    def task(self, offset: int) -> None:
        if offset in (0x00, 0x08):  # STARTRX, STARTTX
            self._slave, self._receives = self._slaves.get(self.registers.get(ADDRESS, 0)), offset == 0x00
            if self._slave is None:
                self.registers[ERROR_SOURCE] = ADDRESS_NACK
                self.happen(ERROR)
            else:
                self._slave.start()
                if self._receives:
                    self._receive()
        elif offset == 0x14:  # STOP
            self._slave, self._receives = None, False
            self.happen(STOPPED)
        elif offset == 0x1C:
            self.happen(SUSPENDED)
        elif offset == 0x20 and self._receives:  # RESUME
            self._receive()

    def _receive(self) -> None:
        assert self._slave is not None
        self.registers[RXD] = self._slave.give()
        shorts = self.registers.get(SHORTS, 0)
        self.happen(RECEIVED)
        self.happen(BYTE_BOUNDARY)
        if shorts & 2:
            self.task(0x14)
        elif shorts & 1:
            self.happen(SUSPENDED)

    def write(self, offset: int, value: int) -> None:
        if offset == ERROR_SOURCE:
            self.registers[offset] = self.registers.get(offset, 0) & ~value
            return
        super().write(offset, value)
        if offset == TXD and self._slave is not None and not self._receives:
            self._slave.take(value & 0xFF)
            self.happen(SENT)
            self.happen(BYTE_BOUNDARY)
