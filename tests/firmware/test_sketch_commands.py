"""The whole sketch on a scripted board: what it answers, under which tag, and when; and 20,000 hostile messages."""
from __future__ import annotations

import random
import re
import shutil
import struct
import zlib
from typing import Iterator

import numpy as np
import pytest
from camera import CameraSettings
from link import MAGIC, VERSION, Message, Type
from scripted import MODEL, OPEN, PACKET, SILENT, WAIT, WRONG, Board, compiled
from sketch_tools import SKETCH, constants_of, set_arrays, set_constants

OK, DAMAGED, BAD_COMMAND, WRONG_VERSION, CAMERA_SILENT, SELF_TEST = 0, 1, 2, 3, 5, 11
FRAME_BYTES = 38_400
SIDE = 20  # of the small board's frames, in pixels
MESSAGES = 100_000


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


def test_a_silent_camera_is_said_and_the_stream_goes_on(board: Board) -> None:
    answer = board((OPEN, 1), (SILENT, 1), Message(Type.STREAM, 7, b"\1"), (WAIT, 12_000))
    assert answer.statuses() == [(7, OK), (7, CAMERA_SILENT)]
    assert answer.heads()[2:4] == [(Type.DARK_FRAME, 7), (Type.BRIGHT_FRAME, 7)]
    assert answer.camera_started == 1, "one silent frame is no reason to start it anew"
    answer = board((OPEN, 1), (SILENT, 1), Message(Type.CAPTURE, 7), Message(Type.CAPTURE, 8))
    assert answer.statuses() == [(7, CAMERA_SILENT)] and answer.heads()[-1] == (Type.BRIGHT_FRAME, 8)


def test_a_camera_that_stays_silent_is_started_anew(board: Board) -> None:
    answer = board((OPEN, 1), (SILENT, 3), Message(Type.STREAM, 7, b"\1"), (WAIT, 15_000))
    assert answer.statuses() == [(7, OK)] + 3 * [(7, CAMERA_SILENT)] and answer.heads()[-1][0] == Type.BRIGHT_FRAME
    assert answer.camera_started == 3, "at the start, and after the second and third silence"


def test_info_says_the_darkest_level_of_the_camera_s_last_frame(board: Board) -> None:
    answer = board((OPEN, 1), Message(Type.INFO, 6), Message(Type.CAPTURE, 7),
                   Message(Type.ENHANCE, 8, bytes(FRAME_BYTES)), Message(Type.INFO, 9))
    before, after = (message.payload.decode() for message in answer.sent if message.type == Type.INFO_TEXT)
    assert before.endswith(" darkest=-1") and after.endswith(" darkest=3")


@pytest.mark.parametrize("count", [2, 5, 8])
def test_a_still_is_the_mean_of_frames_of_the_computer(board: Board, count: int) -> None:
    rng = np.random.default_rng(count)
    frames = rng.integers(0, 256, (count, FRAME_BYTES), np.uint8)
    frames[:, :2] = 255, 0
    answer = board((OPEN, 1), Message(Type.AVERAGE, 5, bytes([count])),
                   *(Message(Type.ENHANCE, tag, frame.tobytes()) for tag, frame in enumerate(frames, 10)),
                   Message(Type.AVERAGE, 6, b"\1"), Message(Type.ENHANCE, 30, frames[0].tobytes()))
    assert answer.heads() == (
        [(Type.STATUS, 5)] + [(Type.STATUS, tag) for tag in range(10, 9 + count)]
        + [(Type.DARK_FRAME, 9 + count), (Type.BRIGHT_FRAME, 9 + count), (Type.STATUS, 6), (Type.DARK_FRAME, 30),
           (Type.BRIGHT_FRAME, 30)])
    assert {code for _, code in answer.statuses()} == {OK}
    mean, single = (message.payload[8:] for message in answer.sent if message.type == Type.DARK_FRAME)
    assert mean == ((frames.astype(int).sum(0) + count // 2) // count).astype(np.uint8).tobytes()
    assert single == frames[0].tobytes()


@pytest.mark.parametrize("between", [Message(Type.SELF_TEST, 20), Message(Type.AVERAGE, 20, b"\2")])
def test_what_was_summed_is_forgotten_when_its_memory_is_used(board: Board, between: Message) -> None:
    frames = [Message(Type.ENHANCE, tag, bytes([tag]) * FRAME_BYTES) for tag in (11, 12, 13)]
    answer = board((OPEN, 1), Message(Type.AVERAGE, 5, b"\2"), frames[0], between, *frames[1:])
    dark, = (message for message in answer.sent if message.type == Type.DARK_FRAME)
    assert dark.tag == 13 and dark.payload[8:] == bytes([13]) * FRAME_BYTES, "12.5, rounded up"


def test_another_source_between_and_the_camera_s_still(board: Board) -> None:
    frame = Message(Type.ENHANCE, 11, bytes(FRAME_BYTES))
    answer = board((OPEN, 1), Message(Type.AVERAGE, 5, b"\4"), frame, Message(Type.CAPTURE, 12), frame, frame, frame,
                   frame)
    single = board((OPEN, 1), Message(Type.CAPTURE, 12))
    darks = [message for message in answer.sent if message.type == Type.DARK_FRAME]
    assert [dark.tag for dark in darks] == [12, 11] and darks[1].payload[8:] == bytes(FRAME_BYTES)
    assert darks[0].payload[8:] == single.sent[0].payload[8:]
    took, usual = (int.from_bytes(dark.payload[4:8], "little") for dark in (darks[0], single.sent[0]))
    assert took == 4 * usual, "four frames of the camera"


def test_a_still_ends_with_its_port(board: Board) -> None:
    answer = board((OPEN, 1), Message(Type.AVERAGE, 5, b"\4"), (OPEN, 0), (WAIT, 10), (OPEN, 1),
                   Message(Type.ENHANCE, 11, bytes(FRAME_BYTES)))
    assert answer.heads() == [(Type.STATUS, 5), (Type.DARK_FRAME, 11), (Type.BRIGHT_FRAME, 11)]


def test_the_exposure_ends_with_its_port(board: Board) -> None:
    """Else frames on a display without a computer would stay brighter until the board is reset."""
    picture = Message(Type.TEST_PICTURE, 11)
    plain, brighter = (board((OPEN, 1), *before, picture).sent[-1].payload[8:]
                       for before in ([], [Message(Type.EXPOSURE, 5, b"\x20")]))
    answer = board((OPEN, 1), Message(Type.EXPOSURE, 5, b"\x20"), (OPEN, 0), (WAIT, 10), (OPEN, 1), picture)
    assert answer.sent[-1].payload[8:] == plain != brighter


def test_commands_that_arrive_in_one_packet_are_all_obeyed(board: Board) -> None:
    answer = board((OPEN, 1), (PACKET, 64), Message(Type.TEST_PICTURE, 1).encode() + Message(Type.INFO, 2).encode()
                   + Message(Type.CAPTURE, 3).encode())
    assert answer.heads() == [(Type.DARK_FRAME, 1), (Type.BRIGHT_FRAME, 1), (Type.INFO_TEXT, 2), (Type.DARK_FRAME, 3),
                              (Type.BRIGHT_FRAME, 3)]


def test_leds_can_be_read_while_frames_are_computed(board: Board) -> None:
    """Three blinks for a wrong version, each as long as the next, in a stream whose frames take a second each."""
    foreign = _header(version=VERSION + 1, kind=Type.INFO, tag=9, length=0)
    answer = board((OPEN, 1), Message(Type.STREAM, 7, b"\2"), (WAIT, 2500), foreign, (WAIT, 6000))
    red = re.search(r"r[r.]*r", answer.leds)
    assert red is not None and re.fullmatch(r"r{14,16}(\.{14,16}r{14,16}){2}", red[0]), answer.leds
    assert answer.leds.endswith("b"), "blue again afterwards"


def test_a_status_that_comes_again_does_not_spoil_the_count(board: Board) -> None:
    answer = board((OPEN, 1), (SILENT, 9), Message(Type.STREAM, 7, b"\1"), (WAIT, 12_000))
    rounds = re.findall(r"(?:r+\.{1,20}){2,}", answer.leds)
    assert [len(re.findall("r+", blinks)) for blinks in rounds][:2] == [5, 5], answer.leds


def test_blue_while_the_sketch_starts(board: Board) -> None:
    leds = board((WAIT, 1000)).leds
    assert re.fullmatch(r"b{90,}g{40,}", leds), leds


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


def test_camera_settings_of_another_range_or_length_are_refused(board: Board) -> None:
    good = CameraSettings().payload()
    steps = [(good, OK), (good[:-1], BAD_COMMAND), (good + b"\0", BAD_COMMAND)]
    steps += [(_changed(good, at, value), code) for at, value, code in (
        (0, 3, OK), (0, 4, BAD_COMMAND), (1, 3, OK), (1, 4, BAD_COMMAND), (2, 1, OK), (2, 7, OK), (2, 0, BAD_COMMAND),
        (2, 8, BAD_COMMAND), (3, 15, BAD_COMMAND), (3, 16, OK), (4, 7, OK), (4, 8, BAD_COMMAND), (5, 255, OK),
        (6, 2, BAD_COMMAND))]
    answer = board((OPEN, 1), *(Message(Type.CAMERA, tag, step) for tag, (step, _) in enumerate(steps, 1)))
    assert answer.statuses() == [(tag, code) for tag, (_, code) in enumerate(steps, 1)]


def _changed(payload: bytes, at: int, value: int) -> bytes:
    return payload[:at] + bytes([value]) + payload[at + 1:]


def test_hostile_messages(small_board: Board) -> None:
    """Every answer is the one that PROTOCOL.md promises, under its own tag, and nothing else comes."""
    rng = random.Random(14)
    # The oracle needs to know which frames are the stream's: tags from 200 are for streams only.
    steps: list = [(OPEN, 1), (MODEL, 0), (PACKET, 64)]
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
        elif (kind == Type.EXPOSURE and length == 1 and abs(int.from_bytes(payload, "little", signed=True)) <= 32
              or kind == Type.CAMERA and length == 7 and _may_be_set(payload)
              or kind == Type.AVERAGE and payload == b"\1"):
            yield Type.STATUS, tag, OK
        else:
            yield Type.STATUS, tag, BAD_COMMAND


def _may_be_set(payload: bytes) -> bool:
    turned, night, ceiling, gain, shutter = struct.unpack("<BBBHH", payload)
    return turned <= 3 and night <= 3 and 1 <= ceiling <= 7 and (not gain or 16 <= gain <= 1984) and shutter <= 510


def _hostile(rng: random.Random) -> bytes:
    """A message, right, wrong, damaged, or no message at all."""
    kind = rng.choice([*range(1, 9), rng.choice([kind for kind in range(256) if kind != Type.AVERAGE])])
    tag = rng.randrange(1, 199)
    right = {Type.ENHANCE: 2 * SIDE ** 2, Type.STREAM: 1, Type.EXPOSURE: 1, Type.CAMERA: 7}.get(kind, 0)
    payload = rng.randbytes(rng.choice((right, right, right, rng.randrange(40))))
    if kind == Type.CAMERA and len(payload) == right and rng.random() < 0.8:
        payload = bytes([rng.randrange(4), rng.randrange(4), rng.randrange(1, 8), 16, rng.randrange(8), 1, 1])
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
