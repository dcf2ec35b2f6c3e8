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
import threading
import time
from pathlib import Path
from typing import Callable, Iterator

import link as viewer_link
import numpy as np
import pytest
import serial
from camera import CameraSettings
from link import Link, LinkError, Message, Picture, Type, Unplugged
from live import watch
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


def test_a_still_of_pictures_gives_the_bytes_of_python(board: Simulator, bright: Callable,
                                                       frames: np.ndarray) -> None:
    shots = [from_yuyv(frame) for frame in frames[:4]]
    mean = (np.stack([to_yuyv(shot) for shot in shots]).astype(int).sum(0) + 2) // 4
    with contextlib.closing(Link(board.port)) as link:
        link.set_exposure(0)
        picture = link.still(shots)
        np.testing.assert_array_equal(picture.dark, from_yuyv(mean.astype(np.uint8)))
        np.testing.assert_array_equal(picture.bright, bright(picture.dark, 0))
        assert np.array_equal(link.enhance(shots[0]).dark, from_yuyv(to_yuyv(shots[0]))), "single frames again"


def test_mirror_and_flip_reach_the_camera_in_a_stream(board: Simulator) -> None:
    settings, seen = [CameraSettings(mirror=True)], []
    picture = np.zeros((120, 160, 3), np.uint8)
    picture[:40, :40] = 200
    with contextlib.closing(Simulator(lambda: picture, folder=board._program.parent)) as still, \
            contextlib.closing(watch(lambda: still.port, frames=6, camera=lambda: settings[0])) as updates:
        for update in updates:
            if isinstance(update, Picture):
                dark = update.dark[..., 1] > 100
                seen.append((bool(dark[0, 0]), bool(dark[0, -1]), bool(dark[-1, 0])))
                settings[0] = CameraSettings(mirror=len(seen) < 3, flip=len(seen) >= 3)
    assert seen[0] == (False, True, False) and seen[-1] == (False, False, True)


def test_stills_and_black_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    def viewer(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, FIRMWARE / "viewer", "--simulate", "--fast", *arguments],
                              capture_output=True, text=True, env=os.environ | {"XDG_CACHE_HOME": str(folder)})

    still = viewer("--still", "3", "--night", "8", "--gain-ceiling", "128", "--save", str(tmp_path))
    assert still.returncode == 0 and len(still.stdout.split()) == 2, still.stderr
    assert {path.name[:6] for path in tmp_path.glob("*.png")} == {"still-"}
    black = viewer("--check-black")
    assert black.returncode == 0 and black.stdout == "darkest=0: black is black\n"
    for arguments, said in ((["--still", "9"], "invalid choice: 9"), (["--gain", "125"], "not between 1 and 124"),
                            (["--shutter", "201"], "201 is not between 0.4 and 200")):
        result = viewer(*arguments)
        assert result.returncode == 2 and said in result.stderr


def main(arguments: list[str]) -> int:
    """The command, in this process."""
    from runpy import run_path
    return run_path(str(FIRMWARE / "viewer" / "__main__.py"), run_name="viewer")["main"](arguments)


def test_levels_that_begin_at_16_are_said(board: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    from runpy import run_path
    check = run_path(str(FIRMWARE / "viewer" / "__main__.py"), run_name="viewer")["_check_black"]
    grey = np.full((120, 160, 3), 16, np.uint8)
    with contextlib.closing(Simulator(lambda: grey, folder=board._program.parent)) as capped, \
            contextlib.closing(Link(capped.port)) as link:
        assert check(link) == 1
    said = capsys.readouterr().out
    assert said.startswith("darkest=16: with the lens cap on it must be 0; 16 means") and "COM15" in said


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


def test_what_keeps_a_board_from_coming_back_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once each, but for the board being absent, which is known."""
    monkeypatch.setattr("live.RETRY_SECONDS", 0.01)
    two, foreign = "2 boards are plugged in: choose one", "port is not open to you"
    answers: list[Exception | str] = []

    def find() -> str:
        answer = answers.pop(0) if answers else board.port
        if isinstance(answer, Exception):
            raise answer
        return answer

    with contextlib.closing(Simulator(folder=folder)) as board, contextlib.closing(watch(find)) as updates:
        next(update for update in updates if isinstance(update, Picture))
        board.unplug()
        board.plug()
        answers += [Unplugged("no board"), LinkError(two), LinkError(two), LinkError(foreign), Unplugged("no board"),
                    LinkError(foreign)]
        words = []
        for update in updates:
            if isinstance(update, Picture):
                break
            words.append(update)
    assert "waiting for it to come back" in words[-5] and words[-4:] == [two, foreign, foreign, f"{board.port} is back"]


@pytest.mark.parametrize("fails", [False, True])
def test_the_port_is_closed_when_its_watcher_ends(board: Simulator, fails: bool) -> None:
    cameras = [CameraSettings()]
    updates = watch(lambda: board.port, camera=lambda: cameras[0])
    next(update for update in updates if isinstance(update, Picture))
    link = updates.gi_frame.f_locals["link"]
    if fails:
        cameras.clear()
        with pytest.raises(IndexError):
            list(updates)
    else:
        updates.close()
    assert not link._port._serial.is_open


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


def test_an_empty_folder_name_is_refused() -> None:
    result = _viewer("--simulate", "--save", "")
    assert result.returncode == 2 and result.stderr.count("error:") == 1
    assert "--save: the name is empty" in result.stderr


def test_exposure_option(folder: Path, tmp_path: Path, bright: Callable) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 60, (120, 160, 3), np.uint8)).save(tmp_path / "night.png")
    result = _viewer("--simulate", "--fast", "--exposure", "-1.5", "--image", str(tmp_path / "night.png"), "--save",
                     str(tmp_path / "out"), cache=folder)
    assert result.returncode == 0, result.stderr
    dark, picture = (np.asarray(Image.open(tmp_path / "out" / f"night-{kind}.png")) for kind in ("dark", "bright"))
    np.testing.assert_array_equal(picture, bright(dark, -12))


def test_messages_fill_the_packets_of_usb() -> None:
    """Mbed OS cuts a packet of 64 bytes, now and then, to the length of a shorter one behind it."""
    ours, theirs = os.openpty()
    port = viewer_link.Port(os.ttyname(theirs), 1)
    for message in (Message(Type.INFO, 1), Message(Type.ENHANCE, 2, bytes(400)), Message(Type.ENHANCE, 3, bytes(48))):
        port.send(message)
        data = os.read(ours, 1000)
        assert len(data) % 64 == 0 and data.endswith(bytes(64)), "a driver may add an empty packet"
        assert data.rstrip(b"\0") == message.encode().rstrip(b"\0")
    port.close()
    os.close(ours)
    os.close(theirs)


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


def test_a_port_that_another_program_uses_is_explained(board: Simulator) -> None:
    """Two viewers would take each other's messages."""
    with contextlib.closing(Link(board.port)) as first:
        with pytest.raises(LinkError, match="port is in use: close other programs that use it"):
            Link(board.port)
        assert first.info()["width"] == "160"
    with contextlib.closing(Link(board.port)) as second:
        assert second.info()["width"] == "160"


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


def test_saving_overwrites_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The board's numbers start at 0 again whenever it is plugged in; the files' do not, nor in a second run."""
    taken = itertools.count()

    def camera() -> np.ndarray:
        if next(taken) == 4:
            threading.Thread(target=lambda: (board.unplug(), board.plug())).start()
        return np.zeros((120, 160, 3), np.uint8)

    with contextlib.closing(Simulator(camera, folder=folder)) as board:
        for run in (1, 2):
            assert main(["--port", board.port, "--save", str(tmp_path), "--frames", "8"]) == 0
            assert len(list(tmp_path.glob("*-dark.png"))) == len(list(tmp_path.glob("*-bright.png"))) == 8 * run
    assert "is back" in capsys.readouterr().out
    assert sorted(tmp_path.glob("*-dark.png"))[-1].name == "000015-dark.png"


@pytest.mark.parametrize("arguments, said", [
    (["--image", "a.png", "--frames", "3"], "--frames has no effect with --image"),
    (["--still", "3", "--frames", "3"], "--frames has no effect with --still"),
    (["--page", "--frames", "3"], "--frames has no effect with --page"),
    (["--info", "--save", "a"], "--save has no effect with --info"),
    (["--check-black", "--save", "a"], "--save has no effect with --check-black"),
    (["--image", "a.png", "--mirror"], "--mirror has no effect with --image"),
    (["--page", "--gain-ceiling", "64"], "--gain-ceiling has no effect with --page"),
    (["--self-test", "--exposure", "1"], "--exposure has no effect with --self-test"),
    (["--test-picture", "--shutter", "9"], "--shutter has no effect with --test-picture"),
    (["--page-port", "8001"], "--page-port has no effect without --page"),
    (["--page", "--page-port", "70000"], "--page-port: 70000 is not between 0 and 65535")])
def test_options_that_would_have_no_effect_are_refused(arguments: list[str], said: str,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--port", "nowhere", *arguments])
    assert said in capsys.readouterr().err


def test_ctrl_c_ends_the_page_well(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(server: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("page_server.PageServer.__init__", lambda server, find, *, port: None)
    monkeypatch.setattr("page_server.PageServer.address", "http://localhost:1/", raising=False)
    monkeypatch.setattr("page_server.PageServer.server_close", lambda server: None)
    monkeypatch.setattr("page_server.PageServer.serve_forever", interrupt)
    assert main(["--port", "nowhere", "--page"]) == 0
    assert capsys.readouterr().err == ""


def test_packages_of_the_emulator_s_names_are_not_taken_for_it(tmp_path: Path) -> None:
    pytest.importorskip("unicorn")
    for name in ("elf", "plugged", "core", "machine"):
        (tmp_path / f"{name}.py").write_text("")
    result = subprocess.run([sys.executable, FIRMWARE / "viewer", "--emulate", tmp_path / "absent.elf", "--info"],
                            capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert result.returncode == 2 and "absent.elf cannot be read" in result.stderr


def test_a_missing_unicorn_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["--emulate", "absent.elf", "--info"]) == 2
    assert capsys.readouterr().err == "viewer: --emulate needs Unicorn: pip install unicorn\n"


def test_the_simulator_has_the_board_s_pace_unless_it_is_told_to_be_fast(folder: Path) -> None:
    took = []
    for fast in (True, False):
        with contextlib.closing(Simulator(folder=folder, fast=fast)) as board, \
                contextlib.closing(Link(board.port)) as link:
            link.size
            started = time.monotonic()
            link.capture()
            took.append(time.monotonic() - started)
    assert took[0] < 0.5 < 0.85 <= took[1]
    result = _viewer("--fast", "--info")
    assert result.returncode == 2 and "--fast is for --simulate and --emulate: add one" in result.stderr


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
