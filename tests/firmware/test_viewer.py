"""The viewer against the simulator end to end: the sketch's own code behind a pseudo-terminal, under sanitizers."""
from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import threading
import time
import tty
import zlib
from pathlib import Path
from typing import Callable, Iterator

import numpy as np
import pytest
import simulator as simulation
from link import VERSION, Decoder, Link, LinkError, Message, Type, Unplugged
from live import watch
from PIL import Image
from simulator import Simulator
from sketch_tools import FIRMWARE, SKETCH, constants_of, need, set_constants
from yuv422 import from_yuyv, to_yuyv

from conversion.bridge.c_array import read_c_array
from conversion.mirnet.pixels import apply_maps, head_tables, model_input


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("g++")
    pytest.importorskip("tflite_micro")
    return tmp_path_factory.mktemp("simulator")


@pytest.fixture
def board(folder: Path) -> Iterator[Simulator]:
    simulator = Simulator(_camera(), sanitize=True, folder=folder)
    yield simulator
    assert simulator.unplug() is None, "the sketch died: a sanitizer has spoken on stderr"
    simulator.close()


@pytest.fixture(scope="module")
def expected() -> Callable[[np.ndarray], np.ndarray]:
    return _expected(SKETCH)


def _expected(sketch: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return what computes the bright picture of a dark one, by the bridge's own Python and tflite-micro."""
    from tflite_micro.python.tflite_micro import runtime
    interpreter = runtime.Interpreter.from_bytes(read_c_array(sketch / "model_data.cpp"), arena_size=1 << 20)
    constants = constants_of(sketch)
    cell = int(constants["kCell"])
    tables = head_tables(constants["kOutputScale"], int(constants["kOutputZeroPoint"]), cell=cell)

    def enhance(dark: np.ndarray) -> np.ndarray:
        interpreter.set_input(model_input(dark, cell=cell)[None], 0)
        interpreter.invoke()
        return apply_maps(dark, interpreter.get_output(0)[0], tables)

    return enhance


def test_fifty_frames_and_an_unplug_in_the_middle(board: Simulator, expected: Callable) -> None:
    dark, numbers, words = [], [], []
    for update in watch(lambda: board.port, frames=50):
        if isinstance(update, str):
            words.append(update)
            continue
        dark.append(update.dark)
        numbers.append(update.number)
        if len(numbers) % 10 == 1:
            np.testing.assert_array_equal(update.bright, expected(update.dark))
        if len(numbers) == 20:
            board.unplug()
            threading.Timer(1.0, board.plug).start()
    assert len(numbers) == 50 and numbers == [*range(20), *range(30)], "the sketch starts anew when plugged in"
    assert sum("waiting for it to come back" in word for word in words) == 1
    assert sum("is back" in word for word in words) == 1
    assert sum("frames/s" in word for word in words) == 50
    assert not np.array_equal(dark[0], dark[1]), "the camera's picture moves"


def test_corrupted_stream_loses_frames_but_shows_no_wrong_one(board: Simulator, expected: Callable) -> None:
    rng = random.Random(0)

    def corrupt(data: bytes) -> bytes:  # about one wrong, missing or additional byte in 200,000
        if rng.random() < len(data) / 200_000:
            at = rng.randrange(len(data))
            return data[:at] + rng.choice((b"", b"\xa5M\x02", bytes([data[at] ^ 16]))) + data[at + 1:]
        return data

    with _Wire(board.port, corrupt) as wire:
        link = Link(wire.port, patience=10)
        pictures = list(itertools.islice(link.stream(), 25))
        link.close()
    numbers = [picture.number for picture in pictures]
    assert numbers == sorted(set(numbers)) and numbers[-1] > 25, "some frames are lost, none comes twice"
    for picture in pictures[::5]:
        np.testing.assert_array_equal(picture.bright, expected(picture.dark))


def test_garbled_commands_are_answered_and_survived(board: Simulator) -> None:
    garbage = random.Random(1).randbytes(5000)
    whole = Message(Type.ENHANCE, 7, bytes(38400)).encode()
    flipped = whole[:20000] + bytes([whole[20000] ^ 1]) + whole[20001:]
    foreign = bytearray(Message(Type.INFO, 9).encode())
    foreign[2] = VERSION + 1
    foreign[8:12] = struct.pack("<I", zlib.crc32(foreign[:8]))
    for sent, status in ((flipped, 1), (whole[:30000], 1), (Message(0x55, 8).encode(), 2),
                         (Message(Type.STREAM, 8, b"\x09").encode(), 2),
                         (Message(Type.ENHANCE, 8, bytes(5)).encode(), 2),
                         (Message(Type.ENHANCE, 8, bytes(40000)).encode()[:12], 2), (bytes(foreign), 3)):
        answers = _talk(board.port, garbage + sent, until=Type.STATUS)
        assert answers[-1].payload[0] == status and len(answers[-1].payload) > 20, sent[:12]
        answers = _talk(board.port, Message(Type.INFO, 77).encode(), until=Type.INFO_TEXT)
        assert answers[-1].tag == 77


def test_silent_camera_is_said_and_the_stream_goes_on(folder: Path) -> None:
    shown, silent = np.zeros((120, 160, 3), np.uint8), threading.Event()
    board = Simulator(lambda: None if silent.is_set() else shown, sanitize=True, folder=folder)
    try:
        kinds, said = [], 0
        with contextlib.closing(watch(lambda: board.port, frames=20)) as updates:
            for update in updates:
                is_text = isinstance(update, str)
                kinds.append("picture" if not is_text else "silent" if "camera silent for" in update else "")
                if kinds.count("picture") == 2 and not said:
                    silent.set()
                if kinds[-1] == "silent":
                    assert isinstance(update, str) and update.startswith("the camera sends no picture: check its wires")
                    said += 1
                if said == 2:
                    silent.clear()
        assert said >= 2 and kinds.count("picture") == 20, "the stream goes on"
        silent.set()
        with contextlib.closing(Link(board.port)) as link:
            with pytest.raises(LinkError, match="the camera sends no picture: check its wires"):
                link.capture()
            silent.clear()
            assert link.capture(test_picture=True).bright.shape == (120, 160, 3)
            assert link.capture().bright.shape == (120, 160, 3)
            assert link.self_test()["self-test"] == "passed"
        assert board.unplug() is None, "the sketch died: a sanitizer has spoken on stderr"
    finally:
        board.close()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A copy of the sketch."""
    shutil.copytree(SKETCH, tmp_path / "own")
    return tmp_path / "own"


def test_failed_self_test_stops_the_sketch(own: Path, tmp_path: Path) -> None:
    """One wrong byte of the golden output: the board says so, again and again, and obeys nothing."""
    source = own / "golden_vectors.cpp"
    head, output, codes = source.read_text().partition("kGoldenOutput[kOutputSize] = {\n  ")
    first, comma, rest = codes.partition(",")
    source.write_text(head + output + str(int(first) - 1 if int(first) > 0 else int(first) + 1) + comma + rest)
    board = Simulator(sketch=own, folder=tmp_path)
    try:
        time.sleep(1)
        _assert_halted(board, "self-test computed wrong bytes")
    finally:
        board.close()


@pytest.mark.parametrize("code, failing, frames, said", [
    ("Status Begin() { return Status::kOk; }", "Status Begin() { return Status::kArena; }", 0,
     "the model does not fit into its arena"),
    ("const Status status = Ask('M'",
     "static int runs = 0; if (++runs > 3) return Status::kInvoke; const Status status = Ask('M'", 2,
     "the model failed to run")], ids=["begin", "run"])
def test_a_model_that_fails_halts_the_sketch(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str,
                                             failing: str, frames: int, said: str) -> None:
    """At the start, so that loop() never runs; or in the third frame, of which only the dark one is sent."""
    source = (FIRMWARE / "viewer" / "simulator.cpp").read_text()
    assert source.count(code) == 1
    (tmp_path / "simulator.cpp").write_text(source.replace(code, failing))
    monkeypatch.setattr(simulation, "HERE", tmp_path)
    board = Simulator(sketch=own, folder=tmp_path)
    try:
        answers = _talk(board.port, Message(Type.STREAM, 5, b"\1").encode(), until=Type.SELF_TEST, seconds=3, all=True)
        kinds = [message.type for message in answers]
        assert kinds.count(Type.BRIGHT_FRAME) == frames
        assert kinds.count(Type.DARK_FRAME) == (frames + 1 if frames else 0)
        assert frames or Type.SELF_TEST_TEXT not in kinds
        _assert_halted(board, said)
    finally:
        board.close()


def _assert_halted(board: Simulator, said: str) -> None:
    """The board obeys no command and repeats its status."""
    with contextlib.closing(Link(board.port)) as link:
        for ask in (link.info, link.capture, link.self_test):
            with pytest.raises(LinkError, match=said):
                ask()


def test_frames_of_the_computer(board: Simulator, expected: Callable, frames: np.ndarray) -> None:
    link = Link(board.port)
    for frame in frames[:3]:
        picture = link.enhance(from_yuyv(frame))
        np.testing.assert_array_equal(picture.dark, from_yuyv(to_yuyv(from_yuyv(frame))))
        np.testing.assert_array_equal(picture.bright, expected(picture.dark))
    link.close()


def test_no_port_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(Unplugged, match="nowhere cannot be opened"):
        Link(str(tmp_path / "nowhere"))
    result = _viewer("--port", str(tmp_path / "nowhere"), "--info")
    assert result.returncode == 2 and "nowhere cannot be opened" in result.stderr and result.stderr.count("\n") == 1


def test_a_port_without_a_board_is_given_up() -> None:
    ours, theirs = os.openpty()
    link = Link(os.ttyname(theirs), patience=0.5)
    with pytest.raises(LinkError, match="silent for 0.5 s"):
        link.info()
    link.close()
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("said", [b"hello\n", Message(Type.STATUS, 0, b"\2of no command").encode()],
                         ids=["text", "of no command"])
def test_a_port_that_talks_but_does_not_answer_is_given_up(said: bytes) -> None:
    """Another sketch, or one that reports something else again and again."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)

    def talk() -> None:
        for _ in range(60):
            os.write(ours, said)
            time.sleep(0.05)

    thread = threading.Thread(target=talk)
    thread.start()
    link, started = Link(os.ttyname(theirs), patience=0.5), time.monotonic()
    with pytest.raises(LinkError, match="silent for 0.5 s"):
        link.info()
    assert time.monotonic() - started < 2
    link.close()
    thread.join()
    os.close(ours)
    os.close(theirs)


def test_frames_of_another_size_than_the_board_says_are_refused() -> None:
    """What a viewer and a sketch of different versions would send."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    frame = Message(Type.DARK_FRAME, 2, bytes(8 + 2 * 160 * 120))
    for info, more, said in ((b"width=80 height=60", [frame], "sent 38408 bytes as a frame of 80x60 pixels"),
                             (b"width=80", [], "does not say how large its frames are"),
                             (b"width=80 height=0", [], "does not say how large its frames are")):
        link = Link(os.ttyname(theirs), patience=5)
        answers = b"".join(message.encode() for message in (Message(Type.INFO_TEXT, 1, info), *more))
        thread = threading.Thread(target=_write_all, args=(ours, answers))
        thread.start()
        with pytest.raises(LinkError, match=said):
            link.capture()
        link.close()
        thread.join()
    os.close(ours)
    os.close(theirs)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data):]


@pytest.mark.parametrize("arguments, said", [
    (["--image", "nowhere.png"], "nowhere.png: there is no such file"),
    (["--image", __file__], "it is no picture that can be read"),
    (["--image", "{picture}", "--save", "{picture}"], "cannot write"),
    (["--test-picture", "--frames", "1", "--save", "{picture}/in"], "cannot write")])
def test_bad_files_get_one_clear_line(folder: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (40, 30)).save(picture)
    result = _viewer("--simulate", *(argument.format(picture=picture) for argument in arguments), cache=folder)
    assert result.returncode == 2 and said in result.stderr and result.stderr.count("\n") == 1, result.stderr


@pytest.mark.parametrize("change, said", [
    (lambda sketch: shutil.rmtree(sketch), "it has no average.cpp: copy "),
    (lambda sketch: (sketch / "golden_vectors.cpp").unlink(), "it has no golden_vectors.cpp: copy "),
    (lambda sketch: set_constants(sketch, kOutputChannels=75), "the model has another head: "),
    (lambda sketch: set_constants(sketch, kArenaBytes=160000), "take too much memory: convert a network with fewer"),
    (lambda sketch: set_constants(sketch, kInputSize=57605), "convert the network again")])
def test_bad_sketches_get_one_clear_line(own: Path, tmp_path: Path, change: Callable[[Path], object],
                                         said: str) -> None:
    change(own)
    result = _viewer("--simulate", "--sketch", str(own), "--info", cache=tmp_path)
    assert result.returncode == 2 and said in result.stderr and result.stderr.count("\n") == 1, result.stderr


def test_a_sketch_is_for_the_simulator_only(own: Path) -> None:
    result = _viewer("--sketch", str(own), "--info")
    assert result.returncode == 2 and "--sketch is for --simulate: add that" in result.stderr


def test_simulator_and_viewer_follow_another_sketch(small_sketch: Path, folder: Path, tmp_path: Path) -> None:
    """A maker's own network, for frames of another size: 80x60 from the camera to the picture file."""
    enhance = _expected(small_sketch)
    board = Simulator(sketch=small_sketch, sanitize=True, folder=folder)
    try:
        with contextlib.closing(Link(board.port)) as link:
            assert link.size == (80, 60) and link.self_test()["self-test"] == "passed"
            assert link.info()["model"] == hashlib.sha256(read_c_array(small_sketch / "model_data.cpp")).hexdigest()
            for picture in itertools.islice(link.stream(), 3):
                assert picture.dark.shape == (60, 80, 3)
                np.testing.assert_array_equal(picture.bright, enhance(picture.dark))
            with pytest.raises(ValueError, match=r"\(60, 80, 3\), not \(120, 160, 3\)"):
                link.enhance(np.zeros((120, 160, 3), np.uint8))
        assert board.unplug() is None, "the sketch died: a sanitizer has spoken on stderr"
    finally:
        board.close()
    photograph = tmp_path / "night.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 60, (300, 500, 3), np.uint8)).save(photograph)
    result = _viewer("--simulate", "--sketch", str(small_sketch), "--image", str(photograph), "--save", str(tmp_path),
                     cache=folder)
    assert result.returncode == 0, result.stderr
    dark, bright = (np.asarray(Image.open(tmp_path / f"night-{name}.png")) for name in ("dark", "bright"))
    np.testing.assert_array_equal(bright, enhance(dark))


def test_commands(folder: Path, tmp_path: Path, expected: Callable) -> None:
    """What the page of the viewer promises, by the command itself."""
    info = _viewer("--simulate", "--info", cache=folder)
    assert info.returncode == 0
    assert f"protocol={VERSION} model=" in info.stdout and " width=160 height=120 " in info.stdout
    test = _viewer("--simulate", "--self-test", cache=folder)
    assert test.stdout.startswith("self-test=passed") and " differing=0 " in test.stdout and test.returncode == 0

    photograph = tmp_path / "night.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 60, (300, 500, 3), np.uint8)).save(photograph)
    saved = _viewer("--simulate", "--image", str(photograph), "--save", str(tmp_path / "out"), cache=folder)
    assert saved.returncode == 0, saved.stderr
    dark, bright = (np.asarray(Image.open(tmp_path / "out" / f"night-{name}.png")) for name in ("dark", "bright"))
    np.testing.assert_array_equal(bright, expected(dark))

    stream = _viewer("--simulate", "--test-picture", "--frames", "3", "--save", str(tmp_path / "stream"), cache=folder)
    assert stream.stdout.count("frames/s") == 3 and stream.returncode == 0
    assert len(list((tmp_path / "stream").glob("*.png"))) == 6


def _camera() -> simulation.Camera:
    """A dark photograph that moves."""
    from skimage import data
    from skimage.transform import resize
    photograph = (resize(data.coffee(), (120, 160), anti_aliasing=True) * 50).astype(np.uint8)
    shifts = itertools.count()
    return lambda: np.roll(photograph, next(shifts), axis=1)


def _talk(port: str, data: bytes, *, until: Type, seconds: float = 5, all: bool = False) -> list[Message]:
    """Send bytes and return what comes back, up to the first message of a type; statuses only if asked for."""
    import serial
    decoder, deadline = Decoder(), time.monotonic() + seconds
    messages: list[Message] = []
    with serial.Serial(port, timeout=0.05) as line:
        line.write(data)
        while time.monotonic() < deadline and not any(message.type == until for message in messages):
            messages += [message for message in decoder.feed(line.read(4096)) if message.type != Type.STATUS
                         or until == Type.STATUS or all]
    return messages


def _viewer(*arguments: str, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ) | ({"XDG_CACHE_HOME": str(cache)} if cache else {})
    arguments += ("--fast",) if "--simulate" in arguments else ()
    return subprocess.run([sys.executable, FIRMWARE / "viewer", *arguments], capture_output=True, text=True,
                          env=environment, timeout=120)


class _Wire:
    """A pseudo-terminal in front of a port that changes what comes from there."""

    def __init__(self, port: str, change: Callable[[bytes], bytes]) -> None:
        self._board = os.open(port, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self._board)
        self._near, self._far = os.openpty()
        tty.setraw(self._far)
        self._change, self._open = change, True
        self.port = os.ttyname(self._far)
        self._thread = threading.Thread(target=self._pass)

    def __enter__(self) -> _Wire:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        self._thread.join()
        for end in (self._board, self._near, self._far):
            os.close(end)

    def _pass(self) -> None:
        while self._open:
            for end in select.select([self._board, self._near], [], [], 0.05)[0]:
                data = os.read(end, 4096)
                if end == self._board:
                    data = self._change(data)
                while data and self._open:
                    if select.select([], [self._near if end == self._board else self._board], [], 0.05)[1]:
                        data = data[os.write(self._near if end == self._board else self._board, data[:512]):]
