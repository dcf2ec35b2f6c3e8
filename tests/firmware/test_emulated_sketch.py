"""The whole sketch, as arduino-cli compiles it, on the emulated board: MIRNET_SKETCH_ELF names it."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest
from sketch_tools import FIRMWARE

pytest.importorskip("unicorn")
ELF = os.environ.get("MIRNET_SKETCH_ELF", "")
needs_elf = pytest.mark.skipif(not ELF, reason=(
    "set MIRNET_SKETCH_ELF to the mirnet_nano33ble.ino.elf that 'arduino-cli compile --profile nano33ble --output-dir "
    "build/arduino firmware/mirnet_nano33ble' leaves"))
DISPLAY_ELF = os.environ.get("MIRNET_DISPLAY_ELF", "")
needs_display_elf = pytest.mark.skipif(not DISPLAY_ELF, reason=(
    "set MIRNET_DISPLAY_ELF to the same file, compiled with a display: see firmware/README.md, Without a computer"))
DISPLAY_DC = 30  # of port 0: A2, which tells the display's commands from its data
RAMWR = 0x2C


class Board:
    """The emulated board, its serial port open, and what a program sees that talks to it."""

    def __init__(self) -> None:
        from machine import Machine
        self.played: list[bytes] = []
        self._random = np.random.default_rng(0)
        self.machine = Machine(Path(ELF), self._picture)
        self.machine.host.open()
        self.forget()

    def forget(self) -> None:
        """Take what comes for the start of a message, as a program does that has just opened the port."""
        from link import Decoder
        self._decoder = Decoder()

    def _picture(self) -> bytes:
        self.played.append(self._random.integers(0, 256, 38400, np.uint8).tobytes())
        return self.played[-1]

    def ask(self, kind: int, payload: bytes = b"", *, until: int, seconds: float = 10):
        """Send a command and return the first message of a type."""
        from link import Message, in_packets
        self.machine.host.outgoing += in_packets(Message(kind, 1, payload).encode())
        return self.wait(until, seconds)

    def wait(self, until: int, seconds: float = 10):
        host = self.machine.host
        for _ in range(round(seconds / 0.005)):
            self.machine.run(0.005)
            messages = list(self._decoder.feed(bytes(host.incoming)))
            host.incoming.clear()
            if found := [message for message in messages if message.type == until]:
                return found[0]
        raise AssertionError(f"no message of type {until} in {seconds} s: {self.machine.core.where()}")


@pytest.fixture(scope="module")
def board() -> Iterator[Board]:
    yield Board()


@needs_elf
def test_it_boots_and_passes_its_self_test(board: Board, record_property) -> None:
    from link import Type
    words = dict(word.split("=") for word in board.ask(Type.INFO, until=Type.INFO_TEXT).payload.decode().split())
    assert words["camera"] == "0"
    core = board.machine.core
    record_property("boot", (core.instructions, core.cycles / 64e6))
    print(f"boot to first answer: {core.instructions:,} instructions, {core.cycles / 64e6:.2f} s of the board")
    assert board.machine.host.identity[0] == 0x2341
    board.machine.run(0.5)  # the answer comes before the command ends
    assert board.machine.leds() == {"green"}
    answer = board.ask(Type.SELF_TEST, until=Type.SELF_TEST_TEXT).payload.decode()
    assert "self-test=passed" in answer and "differing=0" in answer


@needs_elf
def test_a_picture_comes_from_the_pins_to_the_computer_byte_for_byte(board: Board, record_property) -> None:
    from link import Type
    core = board.machine.core
    dark = board.ask(Type.CAPTURE, until=Type.DARK_FRAME)
    assert dark.payload[8:] in board.played[-4:]
    before = core.instructions
    bright = board.wait(Type.BRIGHT_FRAME)
    assert len(bright.payload) == 8 + 3 * 160 * 120
    print(f"from the dark frame to the end of the bright one: {core.instructions - before:,} instructions")
    stack = core.read(core.elf.symbols["_main_stack"], 32768) if "_main_stack" in core.elf.symbols else b""
    used = len(stack[4:].lstrip(b"\xcc"))  # the first word is the kernel's mark
    print(f"untouched RAM: {board.machine.untouched():,} bytes; stack of the main thread: {used:,} bytes")
    assert board.machine.untouched() > 60_000


@needs_elf
def test_a_hundred_pictures_are_those_of_python(board: Board) -> None:
    from link import Type
    from yuv422 import from_yuyv, to_yuyv

    from conversion.frames import calibration_frames, paired_frames
    from conversion.judge import open_board
    from mirnet_torch.checkpoint import WEIGHTS
    restore, _ = open_board(WEIGHTS / "mcu_int8.tflite")
    frames = [frames(None, size=(160, 120), channels=3) for frames in (calibration_frames, paired_frames)]
    pictures = [picture for some in frames for picture in zip(some.names, some.dark)][:100]
    assert len(pictures) == 100
    for name, picture in pictures:
        sent = to_yuyv(picture)
        assert board.ask(Type.ENHANCE, sent.tobytes(), until=Type.DARK_FRAME).payload[8:] == sent.tobytes(), name
        bright = np.frombuffer(board.wait(Type.BRIGHT_FRAME).payload[8:], np.uint8)
        differing = np.count_nonzero(bright != restore(from_yuyv(sent)).ravel())
        assert differing == 0, f"{name}: {differing} of {bright.size} bytes differ"


@needs_elf
def test_a_host_that_does_not_read_costs_the_rest_of_a_message(board: Board) -> None:
    """The board waits a second for it, then drops what is left of the frame, and obeys the next command."""
    from link import Type
    machine, host = board.machine, board.machine.host
    board.ask(Type.TEST_PICTURE, until=Type.DARK_FRAME)
    host.listens = False
    machine.run(0.5)
    assert machine.leds() == {"blue"}, "it waits with a part of the bright frame"
    machine.run(1.5)
    assert machine.leds() == {"green"}, "it has given the frame up"
    host.listens = True
    machine.run(0.5)
    assert len(host.incoming) <= 2 * 64, "no more than the packets that waited in the device"
    host.incoming.clear()
    board.forget()
    assert board.ask(Type.INFO, until=Type.INFO_TEXT).payload.startswith(b"protocol=")
    board.ask(Type.TEST_PICTURE, until=Type.DARK_FRAME)
    assert len(board.wait(Type.BRIGHT_FRAME).payload) == 8 + 3 * 160 * 120


@needs_elf
def test_the_viewer_talks_to_it() -> None:
    result = subprocess.run([sys.executable, FIRMWARE / "viewer", "--emulate", ELF, "--fast", "--self-test"],
                            capture_output=True, text=True, timeout=600)
    assert result.returncode == 0 and "self-test=passed" in result.stdout
    assert result.stderr == f"viewer: starting {Path(ELF).name} on the emulated board, some 10 seconds\n"


@needs_display_elf
def test_a_display_shows_the_camera_without_a_computer() -> None:
    from machine import Machine
    from yuv422 import from_yuyv

    from conversion.judge import open_board
    from mirnet_torch.checkpoint import WEIGHTS
    random, played = np.random.default_rng(0), []
    sent: list[tuple[int, bool]] = []  # bytes, and whether they are data

    def picture() -> bytes:
        played.append(random.integers(0, 60, 38400, np.uint8).tobytes())
        return played[-1]

    def display(value: int) -> int:
        sent.append((value, bool(machine.peripherals.gpio.out[0] >> DISPLAY_DC & 1)))
        return 0xFF

    machine = Machine(Path(DISPLAY_ELF), picture, display)
    shown: list[bytes] = []  # the first is black, from the start
    for _ in range(60):
        machine.run(0.1)
        starts = [i for i, byte in enumerate(sent) if byte == (RAMWR, False)]
        shown = [bytes(value for value, _ in sent[i + 1:i + 1 + 38400]) for i in starts]
        if len(shown) > 1 and len(shown[1]) == 38400:
            break
    pixels = np.frombuffer(shown[1], ">u2").reshape(120, 160).astype(int)
    restore, _ = open_board(WEIGHTS / "mcu_int8.tflite")
    brights = [restore(from_yuyv(np.frombuffer(frame, np.uint8).reshape(120, 160, 2))) for frame in played]
    levels = [np.rint(bright * np.array([31, 63, 31]) / 255).astype(int) @ [1 << 11, 1 << 5, 1] for bright in brights]
    assert any(np.array_equal(pixels, each) for each in levels)


def test_what_the_viewer_says_of_a_wrong_file_or_two_boards(tmp_path: Path) -> None:
    bad = tmp_path / "bad.elf"
    bad.write_bytes(b"no ELF")
    for arguments, message in ((["--emulate", bad], "no program for the board"),
                               (["--emulate", tmp_path / "absent"], "cannot be read"),
                               (["--emulate", bad, "--simulate"], "are three boards")):
        result = subprocess.run([sys.executable, FIRMWARE / "viewer", *arguments, "--info"], capture_output=True,
                                text=True, timeout=60)
        assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr
