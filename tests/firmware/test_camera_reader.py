"""The reader of the camera, as it is compiled for the board, on an emulated Cortex-M4 with an OV7675 on its pins.

`pytest -s` prints how many instructions a byte takes.
"""
from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterator

import pytest
from sketch_tools import EMULATOR, HERE, SKETCH, WARNINGS, need, run

PINS, DATA = 0x50000510, 0x50000810  # registers IN of port 0 and port 1
MICROS, LOCKED = 0x40001000, 0x40001004  # of camera_main.cpp
VSYNC, HREF, PCLK = 1 << 21, 1 << 5, 1 << 4
ROWS, BYTES = 120, 320
MICROSECOND = 64  # cycles; an instruction counts as one
SECOND = 1_000_000 * MICROSECOND
BYTE, LINE = 1 * MICROSECOND, 392 * MICROSECOND  # of the camera at 5 frames a second
ROW, FRAME = 4 * LINE, 510 * LINE
VSYNC_LINES, FIRST_ROW = 3 * LINE, 20 * LINE  # from the start of a frame
OK, SILENT, SLIPPED = 0, 5, 12
COM15 = 0x40  # register of the camera
LIBRARY_INSTRUCTIONS = 19.5  # a byte, of the camera library's reader with the same camera


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cortex_m4 import BOARD
    pytest.importorskip("unicorn")
    elf = tmp_path_factory.mktemp("camera") / "camera.elf"
    run(need("arm-none-eabi-g++"), *WARNINGS, *BOARD, "-Os", "-fno-rtti", "-I", SKETCH, "-I", HERE / "arduino",
        SKETCH / "image_source_camera.cpp", HERE / "emulated" / "camera_main.cpp", "-nostartfiles", "-T",
        EMULATOR / "link.ld", "-Wl,--gc-sections,-u,Begin,-u,SetNight,-u,Read,-u,frame,-u,registers,-e,Begin",
        "--specs=nosys.specs", "-o", elf)
    return elf


@dataclass
class Camera:
    """What an OV7675 puts on the pins, by the time in cycles.

    A row's bytes change when PCLK falls, half a byte before it rises; between rows it is low. The first `torn` frames
    end after three rows. `blank` says how much longer a frame is, by its number, and `lead` where its first row is: its
    blank lines may come before that or at its end. Bytes are those of the old registers while `stale` says so of a
    time.
    """

    torn: int = 0
    stale: Callable[[int], bool] = lambda time: False
    blank: Callable[[int], int] = lambda number: 0
    lead: Callable[[int], int] = lambda number: FIRST_ROW
    silent: bool = False
    _starts: list[int] = field(default_factory=lambda: [0])

    def where(self, time: int) -> tuple[int, int, int]:
        """Return row, byte, and time since the byte or the frame began; -1 outside of rows."""
        while self._starts[-1] <= time:
            number = len(self._starts) - 1
            rows = 3 * ROW if number < self.torn else FRAME - FIRST_ROW
            self._starts.append(self._starts[-1] + FIRST_ROW + rows + self.blank(number))
        number = bisect(self._starts, time) - 1
        time -= self._starts[number]
        row, within = divmod(time - self.lead(number), ROW)
        at, phase = divmod(within, BYTE)
        if 0 <= row < (3 if number < self.torn else ROWS) and at < BYTES:
            return row, at, phase
        return -1, -1, time

    def pins(self, time: int) -> int:
        row, _, phase = self.where(time)
        if self.silent or row < 0:
            return VSYNC if phase < VSYNC_LINES and not self.silent else 0
        return HREF | (PCLK if phase >= BYTE // 2 else 0)

    def data(self, time: int) -> int:
        row, at, _ = self.where(time)
        if self.stale(time):
            return 0
        return (row * 37 + at * 11 + 5) & 255

    def frame(self) -> bytes:
        """Return the frame that every reader should see."""
        return bytes((row * 37 + at * 11 + 5) & 255 for row in range(ROWS) for at in range(BYTES))


@dataclass
class Read:
    """What one call of ReadCamera() did."""

    status: int
    frame: bytes
    instructions: int
    locked: list[int]  # cycles with interrupts off, one after the other
    took: int  # cycles


class Board:
    """The sketch's camera, started; `camera` may be exchanged."""

    def __init__(self, program: Path, camera: Camera) -> None:
        from functions import Core
        self.camera, self._rested, self._since = camera, 0, -1
        self._locked: list[int] = []
        self._core = Core(program, read=self._register, write=self._lock)
        assert self._core.call("Begin") == OK
        assert self._core.memory("registers", 256)[COM15] == 0xC0, "levels from 0 to 255"

    def time(self) -> int:
        return self._core.instructions + self._rested

    def set_night(self, night: int) -> None:
        assert self._core.call("SetNight", night) == OK

    def read(self) -> Read:
        self._locked, started, began = [], self._core.instructions, self.time()
        status = self._core.call("Read")
        assert self._since < 0, "interrupts are on again"
        return Read(status, self._core.memory("frame", ROWS * BYTES), self._core.instructions - started, self._locked,
                    self.time() - began)

    def _register(self, address: int) -> int:
        if address == PINS:
            return self.camera.pins(self.time())
        if address == DATA:
            byte = self.camera.data(self.time())
            return (byte & 3) << 2 | (byte & 0xFC) << 8
        if address == MICROS:
            self._rested += 20 * MICROSECOND  # so that a rest takes no time here
            return self.time() // MICROSECOND & 0xFFFFFFFF
        raise AssertionError(hex(address))

    def _lock(self, address: int, value: int) -> None:
        assert address == LOCKED
        if value and self._since < 0:
            self._since = self.time()
        elif not value and self._since >= 0:
            self._locked.append(self.time() - self._since)
            self._since = -1


@pytest.fixture
def board(program: Path) -> Callable[[Camera], Board]:
    return lambda camera: Board(program, camera)


Reader = Callable[[Camera], Read]


@pytest.fixture
def read(program: Path) -> Reader:
    return lambda camera: Board(program, camera).read()


def test_a_frame_at_the_camera_s_pace(read: Reader) -> None:
    """Interrupts are off for slices of less than 0.7 ms; the whole frame takes 188. A torn frame is tried again."""
    result = read(Camera(torn=2))  # the first is thrown away
    assert result.status == OK and result.frame == Camera().frame()
    assert len(result.locked) == 4 + ROWS and max(result.locked) < 700 * MICROSECOND
    print(f"interrupts off for {max(result.locked) / MICROSECOND:.0f} us at most")


def test_frames_that_are_always_torn_are_given_up(read: Reader) -> None:
    result = read(Camera(torn=5))
    assert result.status == SLIPPED and len(result.locked) == 3 * 4


def test_the_first_frame_after_the_registers_were_written_is_thrown_away(read: Reader) -> None:
    """It has rows that were exposed before, and may be torn: neither its bytes nor an error reach the computer."""
    camera = Camera()
    camera.stale = lambda time: time < FRAME
    result = read(camera)
    assert result.status == OK and result.frame == camera.frame()
    result = read(Camera(torn=3))  # as many as there are attempts
    assert result.status == OK and result.frame == Camera().frame() and len(result.locked) == 2 * 4 + ROWS


@pytest.mark.parametrize("night, limit", [(0, 1), (3, 8)])
def test_a_silent_camera_is_given_up_after_one_limit(board: Callable, night: int, limit: int) -> None:
    """Also if its registers were written, so that a frame must pass by before."""
    slow = board(Camera(silent=True))
    slow.set_night(night)
    result = slow.read()
    assert result.status == SILENT and limit <= result.took / SECOND < limit + 0.01


@pytest.mark.parametrize("front", [False, True])
def test_frames_by_night(board: Callable, front: bool) -> None:
    """A frame takes 1.6 s. Its blank lines may come before its rows: interrupts are on meanwhile."""
    camera = Camera(blank=lambda number: 7 * FRAME, lead=lambda number: FIRST_ROW + front * 7 * FRAME)
    night = board(camera)
    night.set_night(3)
    for _ in range(2):
        result = night.read()
        assert result.status == OK and result.frame == camera.frame()
        assert max(result.locked) < 700 * MICROSECOND


def test_the_last_slow_frame_is_waited_for_when_a_night_ends(board: Callable) -> None:
    camera = Camera(blank=lambda number: 7 * FRAME if number < 3 else 0)
    dawn = board(camera)
    dawn.set_night(3)
    assert dawn.read().status == OK  # the frames 0 and 1
    dawn.set_night(0)
    result = dawn.read()
    assert result.status == OK and result.frame == camera.frame()
    camera.silent = True
    result = dawn.read()
    assert result.status == SILENT and result.took < 1.01 * SECOND, "from now on frames are short"


def test_a_first_row_that_comes_sooner_than_it_did_is_not_lost(board: Callable) -> None:
    """As when the light goes on while frames are long: two attempts fail, the third waits with interrupts off."""
    for sooner in (ROW // 4, 3 * ROW):
        camera = Camera(lead=lambda number: FIRST_ROW if number < 2 else FIRST_ROW - sooner)
        sudden = board(camera)
        assert sudden.read().status == OK
        result = sudden.read()
        assert result.status == OK and result.frame == camera.frame()
        assert max(result.locked) > 1000 * MICROSECOND
        again = sudden.read()
        assert again.status == OK and again.frame == camera.frame() and max(again.locked) < 700 * MICROSECOND


def test_instructions_a_byte(read: Reader, record_property) -> None:
    """A camera that is always just ready: no reader can be asked for bytes faster."""

    class Prompt(Camera):
        def __init__(self) -> None:
            super().__init__()
            row = [HREF] + [HREF, HREF | PCLK] * BYTES + [0, 0]
            self.answers: Iterator[int] = iter([VSYNC, 0, HREF, VSYNC, 0] + row * ROWS)  # the first one passes by
            self.bytes = iter(self.frame())

        def pins(self, time: int) -> int:
            return next(self.answers)

        def data(self, time: int) -> int:
            return next(self.bytes)

    result = read(Prompt())
    assert result.status == OK and result.frame == Camera().frame()
    each = result.instructions / (ROWS * BYTES)
    print(f"{each:.2f} instructions a byte")
    record_property("instructions", each)
    assert each <= LIBRARY_INSTRUCTIONS
