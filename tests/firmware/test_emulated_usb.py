"""The emulated USB device and its host: a program as small as can be is the serial port, and sends bytes back."""
from __future__ import annotations

import struct

import pytest

pytest.importorskip("unicorn")
import sketch_tools  # noqa: E402, F401

DEVICE = bytes([18, 1, 0, 2, 239, 2, 1, 64, 0x41, 0x23, 0x5A, 0x80, 0, 1, 0, 0, 0, 1])
CONFIGURATION = bytes([9, 2, 75, 0, 2, 1, 0, 0xC0, 50,
                       8, 11, 0, 2, 2, 2, 1, 0,
                       9, 4, 0, 0, 1, 2, 2, 1, 0, 5, 0x24, 0, 0x10, 1, 4, 0x24, 2, 6, 5, 0x24, 6, 0, 1,
                       7, 5, 0x81, 3, 64, 0, 16,
                       9, 4, 1, 0, 2, 10, 0, 0, 0, 7, 5, 0x82, 2, 64, 0, 0, 7, 5, 0x02, 2, 64, 0, 0])
IN_PTR, OUT_PTR, BUFFER = 0x600, 0x700, 0x20000000


class Core:
    """Time and memory, which is all that the device takes of a processor."""

    def __init__(self) -> None:
        self.now, self.memory, self.exceptions, self.asked = 0, bytearray(256), self, False

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.memory[address - BUFFER:address - BUFFER + size])

    def write(self, address: int, data: bytes) -> None:
        self.memory[address - BUFFER:address - BUFFER + len(data)] = data

    def set_line(self, irq: int, level: bool) -> None:
        self.asked = level


class Program:
    """What an interrupt handler does: control transfers at endpoint 0, and bytes back at endpoint 2, each plus 1."""

    def __init__(self, core: Core, usb) -> None:
        self.core, self.usb = core, usb
        self.reply, self.lines, self.coding = b"", None, b""
        usb.write(0x500, 1)
        usb.write(0x304, 1 << 24 | 1 << 23 | 1 << 10)  # EPDATA, EP0SETUP, EP0DATADONE
        usb.write(0x504, 1)

    def send(self, endpoint: int, data: bytes) -> None:
        self.core.write(BUFFER, data)
        self.usb.write(IN_PTR + 0x14 * endpoint, BUFFER)
        self.usb.write(IN_PTR + 0x14 * endpoint + 4, len(data))
        self.usb.write(0x04 + 4 * endpoint, 1)
        assert self.usb.read(0x108 + 4 * endpoint) == 1

    def fetch(self, endpoint: int) -> bytes:
        size = self.usb.read(0x4A0 + 4 * endpoint)
        self.usb.write(OUT_PTR + 0x14 * endpoint, BUFFER + 128)
        self.usb.write(OUT_PTR + 0x14 * endpoint + 4, size)
        self.usb.write(0x28 + 4 * endpoint, 1)
        return self.core.read(BUFFER + 128, self.usb.read(OUT_PTR + 0x14 * endpoint + 8))

    def interrupt(self) -> None:
        usb = self.usb
        for event in (0x15C, 0x128, 0x160):
            if not usb.read(event):
                continue
            usb.write(event, 0)
            if event == 0x160:
                status = usb.read(0x46C)
                usb.write(0x46C, status)
                if status >> 18 & 1:
                    self.send(2, bytes(byte + 1 for byte in self.fetch(2)))
            elif event == 0x15C:
                kind, request, value, _, length = struct.unpack(
                    "<BBHHH", bytes(usb.read(0x480 + 4 * number) for number in range(8)))
                self.reply = b""
                if request == 6:
                    self.reply = {1: DEVICE, 2: CONFIGURATION}[value >> 8][:length]
                    self.send(0, self.reply[:64])
                elif request == 0x20:
                    usb.write(0x4C, 1)
                elif request in (9, 0x22):
                    self.lines = value if request == 0x22 else self.lines
                    usb.write(0x4A8, 0)  # endpoint 2 takes packets
                    usb.write(0x50, 1)
                else:
                    usb.write(0x54, 1)
            elif self.reply:
                self.reply = self.reply[64:]
                if self.reply:
                    self.send(0, self.reply)
                else:
                    usb.write(0x50, 1)
            else:
                self.coding = self.fetch(0)
                usb.write(0x50, 1)


def run(core: Core, host, program: Program, milliseconds: int) -> None:
    end = core.now + milliseconds * 64_000
    while core.now < end:
        core.now = max(core.now + 1, host.due())
        host.advance(core.now)
        if core.asked:
            program.interrupt()


@pytest.fixture
def wired():
    from usb_device import Usbd
    from usb_host import Host
    core, powered = Core(), []
    usb = Usbd(core, 0x27, lambda: powered.append(True))
    program = Program(core, usb)
    assert powered == [True] and usb.read(0x400) == 1 << 11  # READY, and the supply only after ENABLE
    return core, Host(core, usb), program


def test_enumerates_opens_and_moves_bytes(wired):
    core, host, program = wired
    run(core, host, program, 50)
    assert host.ready and host.identity == (0x2341, 0x805A)
    assert program.lines is None and not host.is_open
    host.open()
    host.outgoing += bytes(range(200))
    run(core, host, program, 20)
    assert host.is_open and program.lines == 3 and program.coding == struct.pack("<IBBB", 115200, 0, 0, 8)
    assert bytes(host.incoming) == bytes(range(1, 201)) and not host.outgoing
    host.open(False)
    run(core, host, program, 20)
    assert program.lines == 0 and not host.is_open


def test_a_program_that_does_not_read_keeps_the_board_waiting(wired):
    core, host, program = wired
    host.open()
    run(core, host, program, 50)
    host.listens = False
    host.outgoing += bytes(64)
    run(core, host, program, 20)
    assert not host.incoming
    host.listens = True
    run(core, host, program, 20)
    assert bytes(host.incoming) == bytes([1] * 64)


def test_a_request_that_is_refused_or_not_answered(wired):
    from exceptions import Crash
    core, host, program = wired
    program.interrupt = lambda: program.usb.write(0x54, 1)
    with pytest.raises(Crash, match="refuses the USB request 6"):
        run(core, host, program, 50)
    program.interrupt = lambda: None
    host._steps = None
    with pytest.raises(Crash, match="does not answer the USB request 6"):
        run(core, host, program, 2000)
