"""USBD, the nRF52840's USB device, from the side of the program and, for `usb_host.py`, from that of the cable.

EasyDMA and packets take no time by themselves; the host decides when packets go over the cable.
"""
from __future__ import annotations

from typing import Callable

from core import CLOCK_HZ, NEVER, Core
from nrf52840 import Peripheral

RESET, STARTED, EP0_DONE, SOF, EVENT, EP0_SETUP, EP_DATA = 0x100, 0x104, 0x128, 0x154, 0x158, 0x15C, 0x160
END_IN, END_OUT = 0x108, 0x130  # for endpoint 0; others follow
CAUSE, EP_STATUS, EP_DATA_STATUS, ADDRESS, SETUP, SIZE_OUT = 0x400, 0x468, 0x46C, 0x470, 0x480, 0x4A0
ENABLE, PULL_UP, FRAME, SECRET, SECRET_VALUE = 0x500, 0x504, 0x520, 0x800, 0x804
READY = 1 << 11
PACKET = 64
FRAME_CYCLES = CLOCK_HZ // 1000


class Usbd(Peripheral):
    """The device.

    Args:
        powered: is called when the program has enabled the device.
    """

    def __init__(self, core: Core, number: int, powered: Callable[[], None]) -> None:
        super().__init__(core, number)
        self._powered = powered
        self._armed: dict[int, bytes] = {}  # packets for the host, by endpoint
        self._taken: dict[int, bytes] = {}  # packets of the host that the program has not yet fetched
        self._open: set[int] = set()  # endpoints that take a packet of the host
        self.stalled = self.status_done = False
        self._next_frame = NEVER

    # From the cable.

    @property
    def attached(self) -> bool:
        """The program has connected the pull-up."""
        return bool(self.registers.get(ENABLE, 0) & self.registers.get(PULL_UP, 0) & 1)

    def reset(self) -> None:
        """Reset the bus; frames start."""
        self._armed.clear()
        self._taken.clear()
        self._open.clear()
        self._next_frame = self.core.now + FRAME_CYCLES
        self.happen(RESET)

    def setup(self, packet: bytes) -> None:
        """Bring a control transfer's first packet, of 8 bytes."""
        self.stalled = self.status_done = False
        self._armed.pop(0, None)
        self._taken.pop(0, None)
        self._open.discard(0)
        for number, byte in enumerate(packet):
            self.registers[SETUP + 4 * number] = byte
        self.happen(EP0_SETUP)

    def set_address(self, address: int) -> None:
        """The device answers this request by itself."""
        self.registers[ADDRESS] = address

    def take_in(self, endpoint: int) -> bytes | None:
        """Return the packet that waits for the host, or None."""
        packet = self._armed.pop(endpoint, None)
        if packet is not None:
            self._done(endpoint)
        return packet

    def bring_out(self, endpoint: int, packet: bytes) -> bool:
        """Bring a packet; False: the endpoint takes none now."""
        if endpoint not in self._open:
            return False
        self._open.discard(endpoint)
        self._taken[endpoint] = packet
        self.registers[SIZE_OUT + 4 * endpoint] = len(packet)
        self._done(16 + endpoint)
        return True

    def _done(self, bit: int) -> None:
        if bit in (0, 16):
            shorts = self.registers.get(0x200, 0)
            self.happen(EP0_DONE)
            for number, task in ((0, 0x04), (1, 0x28), (2, 0x50)):
                if shorts >> number & 1:
                    self.task(task)
        else:
            self.registers[EP_DATA_STATUS] = self.registers.get(EP_DATA_STATUS, 0) | 1 << bit
            self.happen(EP_DATA)

    # From the program.

    def task(self, offset: int) -> None:
        if 0x04 <= offset < 0x24:  # STARTEPIN
            self._start_in((offset - 0x04) // 4)
        elif 0x28 <= offset < 0x48:  # STARTEPOUT
            self._start_out((offset - 0x28) // 4)
        elif offset == 0x4C:  # EP0RCVOUT
            self._open.add(0)
        elif offset == 0x50:  # EP0STATUS
            self.status_done = True
        elif offset == 0x54:  # EP0STALL
            self.stalled = True

    def _start_in(self, endpoint: int) -> None:
        at = 0x600 + 0x14 * endpoint
        count = self.registers.get(at + 4, 0)
        self._armed[endpoint] = self.core.read(self.registers.get(at, 0), count) if count else b""
        self._transferred(at + 8, count, END_IN + 4 * endpoint, endpoint)

    def _start_out(self, endpoint: int) -> None:
        at = 0x700 + 0x14 * endpoint
        packet = self._taken.pop(endpoint, b"")[:self.registers.get(at + 4, 0)]
        if packet:
            self.core.write(self.registers[at], packet)
        if endpoint:
            self._open.add(endpoint)
        self._transferred(at + 8, len(packet), END_OUT + 4 * endpoint, 16 + endpoint)

    def _transferred(self, amount: int, count: int, event: int, bit: int) -> None:
        self.registers[amount] = count
        self.registers[EP_STATUS] = self.registers.get(EP_STATUS, 0) | 1 << bit
        self.happen(STARTED)
        self.happen(event)

    def write(self, offset: int, value: int) -> None:
        if offset in (CAUSE, EP_STATUS, EP_DATA_STATUS):  # cleared by writing 1
            self.registers[offset] = self.registers.get(offset, 0) & ~value
            return
        super().write(offset, value)
        if SIZE_OUT <= offset < SIZE_OUT + 32:
            self._clear_out((offset - SIZE_OUT) // 4)
        elif offset == ENABLE and value & 1:
            self.registers[CAUSE] = self.registers.get(CAUSE, 0) | READY
            self._powered()
        elif offset == SECRET_VALUE:  # Nordic's errata name what these registers do
            secret = self.registers.get(SECRET, 0)
            if 0x7C5 <= secret < 0x7D5:
                self._clear_out((secret - 0x7C5) // 2)
            elif 0x7B4 <= secret < 0x7C4 and value & (2 if secret > 0x7B4 else 4):
                self._armed.pop((secret - 0x7B4) // 2, None)

    def _clear_out(self, endpoint: int) -> None:
        """Drop what has arrived and let the next packet in."""
        self.registers[SIZE_OUT + 4 * endpoint] = 0
        self._taken.pop(endpoint, None)
        self._open.add(endpoint)

    # Frames.

    def due(self) -> int:
        return self._next_frame

    def advance(self, now: int) -> None:
        self._next_frame += FRAME_CYCLES * (1 + (now - self._next_frame) // FRAME_CYCLES)
        self.registers[FRAME] = self.registers.get(FRAME, 0) + 1 & 0x7FF
        self.happen(SOF)
