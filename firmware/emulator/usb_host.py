"""A computer at the other end of the USB cable: it enumerates a serial port (CDC ACM) and moves bytes.

One packet goes over the cable every `PACKET_CYCLES`, about as fast as full speed allows.
"""
from __future__ import annotations

import struct
from typing import Generator

from core import CLOCK_HZ, Core
from exceptions import Crash
from usb_device import PACKET, Usbd

PACKET_CYCLES = CLOCK_HZ // 19_000  # 19 packets of 64 bytes in a frame of 1 ms
IN, CLASS, INTERFACE = 0x80, 0x20, 0x01
GET_DESCRIPTOR, SET_CONFIGURATION, SET_LINE_CODING, SET_LINES = 6, 9, 0x20, 0x22
DATA_INTERFACE, COMMUNICATION = 0x0A, 0x02
PATIENCE = CLOCK_HZ  # for an answer to a request

Steps = Generator[None, None, bytes]


class Host:
    """The computer. `outgoing` goes to the board; `incoming` has come from it."""

    def __init__(self, core: Core, device: Usbd) -> None:
        self._core, self._device = core, device
        self.outgoing, self.incoming = bytearray(), bytearray()
        self.listens = True  # takes what the board sends, as a program does that reads
        self.identity = (0, 0)  # vendor and product, when enumerated
        self.wants_open = self._is_open = False  # as the computer, as the board has it
        self._communication = self._in = self._out = 0
        self._steps: Generator[None, None, None] | None = None
        self._next = 0

    @property
    def ready(self) -> bool:
        """The board has a serial port."""
        return self._out != 0

    @property
    def is_open(self) -> bool:
        """The board knows that the port is open."""
        return self._is_open

    def open(self, wanted: bool = True) -> None:
        """Open the port, as soon as there is one, or close it."""
        self.wants_open = wanted
        if not wanted:
            self.outgoing.clear()

    def due(self) -> int:
        return self._next

    def advance(self, now: int) -> None:
        self._next = now + PACKET_CYCLES
        if self._steps is None:
            if not self._device.attached:
                self._next = now + CLOCK_HZ // 1000
                return
            if not self.ready:
                self._steps = self._enumerate()
            elif self.wants_open != self._is_open:
                self._steps = self._set_lines(self.wants_open)
        if self._steps is not None:
            try:
                next(self._steps)
            except StopIteration:
                self._steps = None
            return
        if self.listens and (packet := self._device.take_in(self._in)) is not None:
            self.incoming += packet
        elif self.outgoing and self._is_open:
            packet = bytes(self.outgoing[:PACKET])
            if self._device.bring_out(self._out, packet):
                del self.outgoing[:len(packet)]

    def _enumerate(self) -> Generator[None, None, None]:
        self._device.reset()
        yield from self._wait(CLOCK_HZ // 100)
        device = yield from self._request(IN, GET_DESCRIPTOR, 0x0100, 0, 18)
        self._device.set_address(1)
        yield from self._wait(CLOCK_HZ // 500)
        head = yield from self._request(IN, GET_DESCRIPTOR, 0x0200, 0, 9)
        whole = yield from self._request(IN, GET_DESCRIPTOR, 0x0200, 0, struct.unpack_from("<H", head, 2)[0])
        yield from self._request(0, SET_CONFIGURATION, whole[5], 0)
        self._find_serial_port(whole)
        self.identity = struct.unpack_from("<HH", device, 8)  # type: ignore[assignment]

    def _find_serial_port(self, descriptors: bytes) -> None:
        at, interface = 0, None
        while at + 1 < len(descriptors) and descriptors[at]:
            kind = descriptors[at + 1]
            if kind == 4:
                interface = descriptors[at + 5]
                if interface == COMMUNICATION:
                    self._communication = descriptors[at + 2]
            elif kind == 5 and interface == DATA_INTERFACE:
                address = descriptors[at + 2]
                if address & IN:
                    self._in = address & 15
                else:
                    self._out = address
            at += descriptors[at]
        if not self._in or not self._out:
            raise Crash("the board enumerates, but not as a serial port")

    def _set_lines(self, is_open: bool) -> Generator[None, None, None]:
        if is_open:
            coding = struct.pack("<IBBB", 115200, 0, 0, 8)
            yield from self._request(CLASS | INTERFACE, SET_LINE_CODING, 0, self._communication, data=coding)
        yield from self._request(CLASS | INTERFACE, SET_LINES, 3 * is_open, self._communication)
        self._is_open = is_open

    def _wait(self, cycles: int) -> Generator[None, None, None]:
        end = self._core.now + cycles
        while self._core.now < end:
            self._next = end
            yield

    def _request(self, kind: int, request: int, value: int, index: int, length: int = 0, data: bytes = b"") -> Steps:
        """Do a control transfer and return the bytes of the board."""
        device, answer, last = self._device, b"", self._core.now + PATIENCE
        device.setup(struct.pack("<BBHHH", kind, request, value, index, len(data) or length))
        ended = not kind & IN or not length
        left = data
        while not (device.status_done and ended and not left):
            yield
            if device.stalled or self._core.now > last:
                raise Crash(f"the board {'refuses' if device.stalled else 'does not answer'} the USB request "
                            f"{request} of type 0x{kind:02x}, value 0x{value:04x}")
            if not ended and (packet := device.take_in(0)) is not None:
                answer += packet
                ended = len(packet) < PACKET or len(answer) >= length
            elif left and device.bring_out(0, left[:PACKET]):
                left = left[PACKET:]
        return answer
