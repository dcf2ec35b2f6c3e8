"""What the viewer does with its options: brightness, picture files, saving until Ctrl-C, ports that are not open."""
from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Iterator

import link as viewer_link
import numpy as np
import pytest
import serial
from link import Link, LinkError, Message, Picture, Type, watch
from pictures import names_for, read_picture
from PIL import Image
from simulator import Simulator
from sketch_tools import FIRMWARE, SKETCH, constants_of, need
from yuv422 import from_yuyv, to_yuyv

from conversion.bridge.c_array import read_c_array
from conversion.mirnet.pixels import apply_maps, head_tables, model_input


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("g++")
    pytest.importorskip("tflite_micro")
    return tmp_path_factory.mktemp("simulator")


@pytest.fixture(scope="module")
def board(folder: Path) -> Iterator[Simulator]:
    with contextlib.closing(Simulator(folder=folder)) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def bright() -> Callable[[np.ndarray, int], np.ndarray]:
    """What computes the bright picture of a dark one at an exposure, by the bridge's own Python and tflite-micro."""
    from tflite_micro.python.tflite_micro import runtime
    interpreter = runtime.Interpreter.from_bytes(read_c_array(SKETCH / "model_data.cpp"), arena_size=1 << 20)
    constants = constants_of(SKETCH)
    cell = int(constants["kCell"])
    tables = head_tables(constants["kOutputScale"], int(constants["kOutputZeroPoint"]), cell=cell)

    def compute(dark: np.ndarray, exposure: int) -> np.ndarray:
        interpreter.set_input(model_input(dark, cell=cell)[None], 0)
        interpreter.invoke()
        return apply_maps(dark, interpreter.get_output(0)[0], tables, exposure=exposure)

    return compute


def test_exposure_gives_the_bytes_of_python(board: Simulator, bright: Callable, frames: np.ndarray) -> None:
    pictures = []
    with contextlib.closing(Link(board.port)) as link:
        for steps in (-32, -1, 0, 5, 32):
            link.set_exposure(steps)
            pictures.append(link.enhance(from_yuyv(frames[0])).bright)
            np.testing.assert_array_equal(pictures[-1], bright(from_yuyv(to_yuyv(from_yuyv(frames[0]))), steps))
    means = [picture.mean() for picture in pictures]
    assert means == sorted(means) and means[0] < means[-1], "brighter at every step"


def test_exposure_changes_in_a_stream_and_lasts(board: Simulator, bright: Callable) -> None:
    exposure, seen = [8], []
    with contextlib.closing(watch(lambda: board.port, test_picture=True, exposure=lambda: exposure[0])) as updates:
        for update in updates:
            if isinstance(update, Picture):
                seen.append(update)
                exposure[0] = -8 if len(seen) >= 2 else 8
            if len(seen) == 6:
                break
    expected = {steps: bright(seen[0].dark, steps) for steps in (8, -8)}
    drawn = [8 if np.array_equal(picture.bright, expected[8]) else -8 for picture in seen]
    assert drawn == sorted(drawn, reverse=True) and drawn[:2] == [8, 8] and drawn[-2:] == [-8, -8]
    np.testing.assert_array_equal(seen[-1].bright, expected[-8])


@pytest.mark.parametrize("steps", [-33, 33, 1000])
def test_an_exposure_out_of_range_is_refused(board: Simulator, steps: int) -> None:
    with contextlib.closing(Link(board.port)) as link:
        with pytest.raises(ValueError, match="takes -32 to 32 steps"):
            link.set_exposure(steps)


@pytest.mark.parametrize("option, said", [("4.1", "4.1 is not between -4 and 4"), ("-5", "-5 is not between"),
                                          ("nan", "nan is not between"), ("much", "invalid _?[a-z]+ value: 'much'")])
def test_a_wrong_exposure_option_is_refused(option: str, said: str) -> None:
    result = _viewer("--exposure", option, "--info")
    assert result.returncode == 2 and result.stderr.count("error:") == 1
    assert re.search(said, result.stderr), result.stderr


def test_exposure_option(folder: Path, tmp_path: Path, bright: Callable) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 60, (120, 160, 3), np.uint8)).save(tmp_path / "night.png")
    result = _viewer("--simulate", "--fast", "--exposure", "-1.5", "--image", str(tmp_path / "night.png"), "--save",
                     str(tmp_path / "out"), cache=folder)
    assert result.returncode == 0, result.stderr
    dark, picture = (np.asarray(Image.open(tmp_path / "out" / f"night-{kind}.png")) for kind in ("dark", "bright"))
    np.testing.assert_array_equal(picture, bright(dark, -12))


@pytest.mark.parametrize("times, arrives", [(1, True), (2, True), (3, False)])
def test_a_damaged_picture_is_sent_again(board: Simulator, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch,
                                         times: int, arrives: bool) -> None:
    send, damaged = viewer_link.Port.send, []

    def damage(port: viewer_link.Port, message: Message) -> None:
        if message.type == Type.ENHANCE and len(damaged) < times:
            damaged.append(message)
            whole = bytearray(message.encode())
            whole[1000] ^= 4
            port._serial.write(whole)
        else:
            send(port, message)

    monkeypatch.setattr(viewer_link.Port, "send", damage)
    with contextlib.closing(Link(board.port)) as link:
        if arrives:
            picture = from_yuyv(to_yuyv(from_yuyv(frames[0])))
            np.testing.assert_array_equal(link.enhance(from_yuyv(frames[0])).dark, picture)
        else:
            with pytest.raises(LinkError, match="damaged and was dropped: send it again"):
                link.enhance(from_yuyv(frames[0]))
    assert len(damaged) == times


def test_a_port_of_another_group_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise serial.SerialException(errno.EACCES, "could not open port: [Errno 13] Permission denied")

    port = tmp_path / "ttyACM0"
    port.touch()
    monkeypatch.setattr(serial, "Serial", refuse)
    with pytest.raises(LinkError, match=r"ttyACM0 is not open to you: .*'sudo usermod -aG \w+ \$USER'.* in again"):
        Link(str(port))


def test_pictures_of_one_stem_keep_apart(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a/night.jpg", "b/night.png", "night.webp", "c/night-2.png")]
    assert names_for(paths, tmp_path / "out") == ["night", "night-2", "night-3", "night-2-2"]
    beside = [tmp_path / "night.jpg", tmp_path / "night-dark.png"]
    assert names_for(beside, tmp_path) == ["night-2", "night-dark"], "no picture is written over"


def test_two_pictures_of_one_stem(folder: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "night.png", tmp_path / "b" / "night.png"]
    for level, path in enumerate(paths, 1):
        path.parent.mkdir()
        Image.new("RGB", (160, 120), (32 * level,) * 3).save(path)
    result = _viewer("--simulate", "--fast", "--image", *map(str, paths), "--save", str(tmp_path / "out"), cache=folder)
    assert result.returncode == 0, result.stderr
    first, second = (np.asarray(Image.open(tmp_path / "out" / f"{name}-dark.png")) for name in ("night", "night-2"))
    assert first.max() < 40 < 60 < second.min()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_of_16_bits_keeps_its_levels(tmp_path: Path, suffix: str) -> None:
    levels = np.arange(160 * 120, dtype=np.uint16).reshape(120, 160) * 3
    Image.fromarray(levels).save(tmp_path / f"grey.{suffix}")
    read = read_picture(tmp_path / f"grey.{suffix}", (160, 120))
    np.testing.assert_array_equal(read, np.rint(levels / 257).astype(np.uint8)[..., None].repeat(3, -1))


def test_saving_ends_with_ctrl_c_and_a_summary(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(FIRMWARE / "viewer"), "--simulate", "--fast", "--save", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=dict(os.environ) | {"XDG_CACHE_HOME": str(folder)})
    assert process.stdout is not None
    lines = list(itertools.islice(process.stdout, 3))
    process.send_signal(signal.SIGINT)
    rest, said = process.communicate(timeout=30)
    assert all("frames/s" in line for line in lines) and said == "" and process.returncode == 0
    count = len(list((tmp_path / "out").glob("*-bright.png")))
    assert count >= 3 and rest.splitlines()[-1].startswith(f"{count} dark and {count} bright pictures are in ")
    for path in (tmp_path / "out").iterdir():
        Image.open(path).load()


def test_the_simulator_has_the_board_s_pace_unless_it_is_told_to_be_fast(folder: Path) -> None:
    took = []
    for fast in (True, False):
        with contextlib.closing(Simulator(folder=folder, fast=fast)) as board, \
                contextlib.closing(Link(board.port)) as link:
            link.size
            started = time.monotonic()
            link.capture()
            took.append(time.monotonic() - started)
    assert took[0] < 0.8 < 1.0 <= took[1]
    result = _viewer("--fast", "--info")
    assert result.returncode == 2 and "--fast is for --simulate: add that" in result.stderr


def test_the_sketch_ends_with_a_viewer_that_is_killed(folder: Path) -> None:
    program = ("import sys, time; sys.path.insert(0, sys.argv[1]); from pathlib import Path; "
               "from simulator import Simulator; board = Simulator(folder=Path(sys.argv[2])); "
               "print(board._process.pid, flush=True); time.sleep(60)")
    viewer = subprocess.Popen([sys.executable, "-c", program, str(FIRMWARE / "viewer"), str(folder)],
                              stdout=subprocess.PIPE, text=True)
    assert viewer.stdout is not None
    sketch = int(viewer.stdout.readline())
    viewer.kill()
    viewer.communicate()
    for _ in range(50):
        state = Path(f"/proc/{sketch}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    os.kill(sketch, signal.SIGKILL)
    pytest.fail("the sketch runs on")


def _viewer(*arguments: str, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ) | ({"XDG_CACHE_HOME": str(cache)} if cache else {})
    return subprocess.run([sys.executable, FIRMWARE / "viewer", *arguments], capture_output=True, text=True,
                          env=environment, timeout=120)
