"""The whole sketch on a scripted board: what it answers, under which tag, and when; and 20,000 hostile messages."""
from __future__ import annotations

import random
import re
import shutil
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

import pytest
from link import MAGIC, VERSION, Decoder, Message, Type
from sketch_tools import HERE, SKETCH, WARNINGS, constants_of, need, run, set_arrays, set_constants

OPEN, SILENT, MODEL, WRONG, WAIT = "c", "s", "m", "x", "w"
OK, DAMAGED, BAD_COMMAND, WRONG_VERSION, CAMERA_SILENT, SELF_TEST = 0, 1, 2, 3, 5, 11
SIDE = 20  # of the small board's frames, in pixels
MESSAGES = 20_000


@dataclass
class Answer:
    sent: list[Message]
    clock_asked: int
    camera_started: int
    lamps: str  # one character for every 20 ms

    def heads(self) -> list[tuple[int, int]]:
        """Type and tag of every message."""
        return [(message.type, message.tag) for message in self.sent]

    def statuses(self) -> list[tuple[int, int]]:
        """Tag and code of every status."""
        return [(message.tag, message.payload[0]) for message in self.sent if message.type == Type.STATUS]


Board = Callable[..., Answer]


def compiled(sketch: Path, folder: Path) -> Board:
    """Compile the sketch for a scripted board; the steps are bytes that arrive or pairs of a letter and a number."""
    from simulator import SANITIZERS, portable_sources
    program = folder / "scripted"
    run(need("g++"), *WARNINGS, *SANITIZERS, "-I", sketch, *portable_sources(sketch), HERE / "scripted_board.cpp",
        "-x", "c++", sketch / f"{SKETCH.name}.ino", "-o", program)

    def play(*steps: bytes | Message | tuple[str, int]) -> Answer:
        script = b""
        for step in steps:
            data = step.encode() if isinstance(step, Message) else step
            script += (data[0].encode() + struct.pack("<I", data[1]) if isinstance(data, tuple)
                       else b"b" + struct.pack("<I", len(data)) + data)
        answer = run(program, input=script)
        length, = struct.unpack_from("<I", answer)
        decoder = Decoder()
        sent = list(decoder.feed(answer[4:4 + length]))
        assert decoder.dropped == 0, "the sketch sends whole messages only"
        asked, started = struct.unpack_from("<II", answer, 4 + length)
        return Answer(sent, asked, started, answer[12 + length:].decode())

    return play


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    return compiled(SKETCH, tmp_path_factory.mktemp("scripted"))


@pytest.fixture(scope="module")
def small_board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    """The sketch as it were with a model for frames of 20x20 pixels, so that a frame takes no time."""
    folder = tmp_path_factory.mktemp("small")
    sketch = folder / "sketch"
    shutil.copytree(SKETCH, sketch)
    cells = SIDE // int(constants_of(SKETCH)["kCell"])
    set_constants(sketch, kImageWidth=SIDE, kImageHeight=SIDE, kInputHeight=cells, kInputWidth=cells,
                  kOutputHeight=cells, kOutputWidth=cells, kInputSize=3 * SIDE ** 2, kOutputSize=15 * cells ** 2)
    set_arrays(sketch / "golden_vectors.cpp", kGoldenInput=[0] * 3 * SIDE ** 2, kGoldenOutput=[0] * 15 * cells ** 2)
    return compiled(sketch, folder)


def test_a_stream_keeps_its_tag_whatever_is_asked_meanwhile(board: Board) -> None:
    answer = board((OPEN, 1), Message(Type.STREAM, 7, b"\2"), (WAIT, 2500), Message(Type.INFO, 8),
                   Message(Type.EXPOSURE, 9, b"\4"), Message(0x55, 10), Message(Type.TEST_PICTURE, 11), (WAIT, 2500),
                   Message(Type.STREAM, 12, b"\0"), (WAIT, 2500))
    frames = [tag for kind, tag in answer.heads() if kind in (Type.DARK_FRAME, Type.BRIGHT_FRAME)]
    assert frames.count(11) == 2 and set(frames) == {7, 11} and frames[-1] == 7
    assert (Type.INFO_TEXT, 8) in answer.heads()
    assert answer.statuses() == [(7, OK), (9, OK), (10, BAD_COMMAND), (12, OK)]
    assert answer.heads()[-1] == (Type.STATUS, 12), "nothing comes after the end of the stream"


def test_a_stalled_or_damaged_message_is_answered_under_its_own_tag(board: Board) -> None:
    whole = Message(Type.ENHANCE, 9, bytes(38_400)).encode()
    damaged = whole[:-1] + bytes([whole[-1] ^ 1])
    answer = board((OPEN, 1), Message(Type.STREAM, 7, b"\2"), (WAIT, 2500), whole[:20_000], (WAIT, 600), damaged,
                   Message(Type.INFO, 8), whole[:5], (WAIT, 3000), Message(Type.INFO, 10))
    assert answer.statuses() == [(7, OK), (9, DAMAGED), (9, DAMAGED), (0, DAMAGED)]
    assert {tag for kind, tag in answer.heads() if kind == Type.BRIGHT_FRAME} == {7}
    assert answer.heads()[-1][0] == Type.BRIGHT_FRAME and (Type.INFO_TEXT, 10) in answer.heads()


def test_a_half_header_times_out_after_half_a_second(board: Board) -> None:
    header = Message(Type.INFO, 9).encode()[:11]
    assert board((OPEN, 1), header, (WAIT, 450)).statuses() == []
    assert board((OPEN, 1), header, (WAIT, 550)).statuses() == [(0, DAMAGED)]
    assert board((OPEN, 1), header, (WAIT, 450), Message(Type.INFO, 9).encode()[11:]).heads() == [(Type.INFO_TEXT, 9)]


def test_the_clock_is_not_asked_for_every_byte(board: Board) -> None:
    frame = Message(Type.ENHANCE, 9, bytes(38_400)).encode()
    packets = [frame[at:at + 64] for at in range(0, len(frame), 64)]
    idle, busy = board((OPEN, 1)), board((OPEN, 1), *packets)
    assert len(busy.sent) == 2 and busy.clock_asked - idle.clock_asked < 3 * len(packets) + 500


def test_a_stream_ends_when_its_computer_closes_the_port(board: Board) -> None:
    answer = board((OPEN, 1), Message(Type.STREAM, 7, b"\1"), (WAIT, 2500), (OPEN, 0), (WAIT, 2500), (OPEN, 1),
                   Message(Type.INFO, 8), (WAIT, 5000))
    assert answer.heads()[-1] == (Type.INFO_TEXT, 8)


def test_half_a_message_is_dropped_with_its_port(board: Board) -> None:
    """Else it would swallow what the next program asks."""
    half = Message(Type.ENHANCE, 9, bytes(38_400)).encode()[:20_000]
    answer = board((OPEN, 1), half, (OPEN, 0), (WAIT, 10), (OPEN, 1), Message(Type.INFO, 8), (WAIT, 600))
    assert answer.heads() == [(Type.INFO_TEXT, 8)]


def test_a_silent_camera_is_said_and_started_anew_and_the_stream_goes_on(board: Board) -> None:
    answer = board((OPEN, 1), (SILENT, 2), Message(Type.STREAM, 7, b"\1"), (WAIT, 12_000))
    assert answer.statuses() == [(7, OK), (7, CAMERA_SILENT), (7, CAMERA_SILENT)]
    assert answer.heads()[3:5] == [(Type.DARK_FRAME, 7), (Type.BRIGHT_FRAME, 7)]
    assert answer.camera_started == 3, "at the start, and after each silence"
    answer = board((OPEN, 1), (SILENT, 1), Message(Type.CAPTURE, 7), Message(Type.CAPTURE, 8))
    assert answer.statuses() == [(7, CAMERA_SILENT)] and answer.heads()[-1] == (Type.BRIGHT_FRAME, 8)


def test_lamps_can_be_read_while_frames_are_computed(board: Board) -> None:
    """Three blinks for a wrong version, each as long as the next, in a stream whose frames take a second each."""
    foreign = _header(version=VERSION + 1, kind=Type.INFO, tag=9, length=0)
    answer = board((OPEN, 1), Message(Type.STREAM, 7, b"\2"), (WAIT, 2500), foreign, (WAIT, 6000))
    red = re.search(r"r[r.]*r", answer.lamps)
    assert red is not None and re.fullmatch(r"r{14,16}(\.{14,16}r{14,16}){2}", red[0]), answer.lamps
    assert answer.lamps.endswith("b"), "blue again afterwards"


def test_a_status_that_comes_again_does_not_spoil_the_count(board: Board) -> None:
    answer = board((OPEN, 1), (SILENT, 9), Message(Type.STREAM, 7, b"\1"), (WAIT, 12_000))
    rounds = re.findall(r"(?:r+\.{1,20}){2,}", answer.lamps)
    assert [len(re.findall("r+", blinks)) for blinks in rounds][:2] == [5, 5], answer.lamps


def test_blue_while_the_sketch_starts(board: Board) -> None:
    lamps = board((WAIT, 1000)).lamps
    assert re.fullmatch(r"b{90,}g{40,}", lamps), lamps


def test_a_self_test_that_fails_says_how_far_and_halts(board: Board) -> None:
    answer = board((OPEN, 1), (WRONG, 1), Message(Type.SELF_TEST, 9))
    line = answer.sent[0].payload.decode()
    assert line.startswith("self-test=failed") and "differing=1 " in line and "largest=1 " in line
    assert set(answer.statuses()) == {(9, SELF_TEST)} and 28 <= len(answer.statuses()) <= 31, "every two seconds"


def test_exposure_of_another_range_or_length_is_refused(board: Board) -> None:
    steps = [(b"\x20", OK), (b"\xe0", OK), (b"\x21", BAD_COMMAND), (b"\xdf", BAD_COMMAND), (b"\x80", BAD_COMMAND),
             (b"", BAD_COMMAND), (b"\0\0", BAD_COMMAND)]
    answer = board((OPEN, 1), *(Message(Type.EXPOSURE, tag, step) for tag, (step, _) in enumerate(steps, 1)))
    assert answer.statuses() == [(tag, code) for tag, (_, code) in enumerate(steps, 1)]


def test_hostile_messages(small_board: Board) -> None:
    """Every answer is the one that PROTOCOL.md promises, under its own tag, and nothing else comes."""
    rng = random.Random(14)
    # The oracle needs to know which frames are the stream's: tags from 200 are for streams only.
    steps: list = [(OPEN, 1), (MODEL, 0)]
    expected: list[tuple[int, int, int]] = []  # type, tag and the first byte of the payload
    oracle = _Oracle()
    for _ in range(MESSAGES // 50):
        data = b"".join(_hostile(rng) for _ in range(50))
        steps.append(data)
        expected += oracle.answers(data)
        if rng.random() < 0.3:
            steps.append((WAIT, 600))
            expected += oracle.pause()
    answer = small_board(*steps)
    expected_at, stream = 0, 0
    for message in answer.sent:
        first = message.payload[0] if message.type == Type.STATUS else 0
        if message.tag >= 200 and message.type in (Type.DARK_FRAME, Type.BRIGHT_FRAME):
            assert message.tag == stream, "a frame of no stream, or of one that has ended"
            continue
        assert (message.type, message.tag, first) == expected[expected_at], f"answer {expected_at}"
        expected_at += 1
        if message.tag >= 200 and first == OK:
            stream = message.tag
        elif message.tag == 199 and first == OK and message.type == Type.STATUS:
            stream = 0
    assert expected_at == len(expected)
    kinds = {(kind, code) for kind, _, code in expected}
    assert kinds == {(Type.STATUS, code) for code in (OK, DAMAGED, BAD_COMMAND, WRONG_VERSION)} | {
        (kind, 0) for kind in (Type.INFO_TEXT, Type.SELF_TEST_TEXT, Type.DARK_FRAME, Type.BRIGHT_FRAME)}
    assert sum(message.tag >= 200 for message in answer.sent) > 100, "streams did run"


class _Oracle:
    """What the sketch must answer, straight from PROTOCOL.md."""

    def __init__(self) -> None:
        self._pending = b""

    def answers(self, data: bytes) -> list[tuple[int, int, int]]:
        self._pending += data
        return list(self._all())

    def pause(self) -> list[tuple[int, int, int]]:
        """Half a second without a byte: what has begun is dropped."""
        pending, self._pending = self._pending, b""
        return [(Type.STATUS, pending[4] if len(pending) >= 12 else 0, DAMAGED)] if pending else []

    def _all(self) -> Iterator[tuple[int, int, int]]:
        while True:
            start = self._pending.find(MAGIC)
            if start < 0:
                start = len(self._pending) - self._pending.endswith(MAGIC[:1])
            self._pending = self._pending[start:]
            if len(self._pending) < 12:
                return
            version, kind, tag = self._pending[2:5]
            length = int.from_bytes(self._pending[5:8], "little")
            end = 12 + length + 4
            if zlib.crc32(self._pending[:8]) != int.from_bytes(self._pending[8:12], "little"):
                self._pending = self._pending[1:]
                continue
            if version != VERSION or length > 2 * SIDE ** 2:
                self._pending = self._pending[12:]
                yield Type.STATUS, tag, WRONG_VERSION if version != VERSION else BAD_COMMAND
                continue
            if len(self._pending) < end:
                return
            whole, self._pending = self._pending[:end], self._pending[end:]
            if zlib.crc32(whole[:-4]) != int.from_bytes(whole[-4:], "little"):
                yield Type.STATUS, tag, DAMAGED
            else:
                yield from self._obey(kind, tag, whole[12:-4])

    @staticmethod
    def _obey(kind: int, tag: int, payload: bytes) -> Iterator[tuple[int, int, int]]:
        length = len(payload)
        if kind == Type.INFO and not length:
            yield Type.INFO_TEXT, tag, 0
        elif kind == Type.SELF_TEST and not length:
            yield Type.SELF_TEST_TEXT, tag, 0
        elif (kind in (Type.CAPTURE, Type.TEST_PICTURE) and not length
              or kind == Type.ENHANCE and length == 2 * SIDE ** 2):
            yield Type.DARK_FRAME, tag, 0
            yield Type.BRIGHT_FRAME, tag, 0
        elif kind == Type.STREAM and length == 1 and payload[0] <= 2:
            yield Type.STATUS, tag, OK
        elif kind == Type.EXPOSURE and length == 1 and abs(int.from_bytes(payload, "little", signed=True)) <= 32:
            yield Type.STATUS, tag, OK
        else:
            yield Type.STATUS, tag, BAD_COMMAND


def _hostile(rng: random.Random) -> bytes:
    """A message, right, wrong, damaged, or no message at all."""
    kind = rng.choice([*range(1, 8), rng.randrange(256)])
    tag = rng.randrange(1, 199)
    right = {Type.ENHANCE: 2 * SIDE ** 2, Type.STREAM: 1, Type.EXPOSURE: 1}.get(kind, 0)
    payload = rng.randbytes(rng.choice((right, right, right, rng.randrange(40))))
    if kind == Type.STREAM:
        start = rng.random() < 0.5
        payload, tag = (bytes([rng.choice((1, 2))]), rng.randrange(200, 256)) if start else (b"\0", 199)
        if rng.random() < 0.1:
            payload, tag = rng.randbytes(2), 5
    whole = Message(kind, tag, payload).encode()
    at, draw = rng.randrange(len(whole)), rng.random()
    if draw < 0.6:
        return whole
    if draw < 0.7:
        return whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1:]
    if draw < 0.8:
        return whole[:at]
    if draw < 0.85:
        return whole[:at] + rng.randbytes(rng.randrange(4)) + whole[at:]
    if draw < 0.9:
        return rng.randbytes(rng.randrange(60))
    if draw < 0.95:
        return _header(version=rng.randrange(256), kind=kind, tag=tag, length=len(payload))
    return _header(version=VERSION, kind=kind, tag=tag, length=rng.choice((2 * SIDE ** 2 + 1, rng.randrange(1 << 24))))


def _header(*, version: int, kind: int, tag: int, length: int) -> bytes:
    header = MAGIC + bytes([version, kind, tag]) + length.to_bytes(3, "little")
    return header + struct.pack("<I", zlib.crc32(header))
