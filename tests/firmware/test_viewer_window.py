"""The live window on a virtual screen: pictures with labels, and what the keys do."""
from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Callable, Iterator

import numpy as np
import pytest
from camera import CameraSettings
from link import Picture
from PIL import Image
from sketch_tools import need

tkinter = pytest.importorskip("tkinter")


@pytest.fixture(scope="module")
def screen() -> Iterator[None]:
    """A screen of its own, where Xvfb is installed."""
    reader, writer = os.pipe()
    server = subprocess.Popen([need("Xvfb"), "-displayfd", str(writer), "-screen", "0", "1600x1200x24"],
                              pass_fds=[writer], stderr=subprocess.DEVNULL)
    os.close(writer)
    with os.fdopen(reader) as lines, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISPLAY", f":{lines.readline().strip()}")
        yield
    server.terminate()
    server.wait()


@pytest.fixture
def window(screen: None, tmp_path: Path) -> Iterator:
    from window import Window
    window = Window([0], tmp_path)
    window.root.update()
    yield window
    window.root.destroy()


@pytest.fixture
def press(window) -> Callable[[str], None]:
    def press(key: str) -> None:
        window.root.focus_force()
        window.root.update()
        window.root.event_generate(f"<{key}>")
        window.root.update()

    return press


def picture(number: int) -> Picture:
    dark = np.full((120, 160, 3), number, np.uint8)
    return Picture(number, dark, 255 - dark, 0.2, 0.8)


def shown(window) -> np.ndarray:
    """The pixels of the window's picture, uint8 (height, width, 3)."""
    image = window.canvas.image
    return np.array([[image.get(x, y) for x in range(0, image.width(), 5)] for y in range(0, image.height(), 5)])


def test_pictures_stand_side_by_side_over_their_labels(window) -> None:
    window.receive(picture(9))
    window.root.update()
    pixels = shown(window)
    half = pixels.shape[1] // 2
    assert window.canvas.image.width() == 1280
    assert (pixels[:90, :half] == 9).all() and (pixels[:90, half:] == 246).all()
    assert (pixels[-2:] == 0).any(), "labels are below"


def test_pictures_follow_the_size_of_the_window(window) -> None:
    window.receive(picture(9))
    window.root.geometry("700x500")
    window.root.update()
    assert 690 <= window.canvas.image.width() <= 700
    window.root.geometry("200x100")
    window.root.update()
    assert window.canvas.image.width() == 320, "never smaller than the frames"


def test_brightness_keys_stay_within_the_range(window, press) -> None:
    for key, steps in (("plus", 1), ("Up", 2), ("minus", 1), ("Down", 0), ("Down", -1)):
        press(key)
        assert window._exposure == [steps]
    assert "exposure -0.125 EV" in window.said["text"]
    for _ in range(40):
        window.brighter()
    assert window._exposure == [32]


def test_s_saves_both_frames(window, press, tmp_path: Path) -> None:
    press("s")
    assert list(tmp_path.iterdir()) == [], "nothing has come yet"
    window.receive(picture(9))
    press("s")
    dark, bright = sorted(tmp_path.glob("*.png"), key=lambda path: path.name, reverse=True)
    assert np.asarray(Image.open(dark)).max() == 9 and np.asarray(Image.open(bright)).min() == 246
    assert window.said["text"] == f"saved {dark.name}, {bright.name}"


def test_a_folder_that_cannot_be_written_is_said_and_the_window_stays(window, press, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    window._folder = tmp_path / "file"
    window.receive(picture(9))
    press("s")
    assert "cannot write" in window.said["text"]
    window.receive(picture(10))
    window.receive("frame 10")
    assert window.picture.number == 10
    assert "cannot write" in window.said["text"] and window.line["text"] == "frame 10"


def test_space_holds_the_picture(window, press) -> None:
    window.receive(picture(1))
    press("space")
    window.receive(picture(2))
    assert window.picture.number == 1
    press("space")
    window.receive(picture(3))
    assert window.picture.number == 3


@pytest.mark.parametrize("end", ["q", "the window's button"])
def test_the_end_writes_a_recording(window, press, tmp_path: Path, end: str) -> None:
    press("r")
    window.receive(picture(50))
    window.receive(picture(100))
    window._folder = tmp_path / "no folder" / "file"
    (tmp_path / "no folder").touch()
    window.close()
    assert "cannot write" in window.said["text"] and window.root.winfo_exists(), "it stays once, to say it"
    window._folder = tmp_path
    press("r")
    window.receive(picture(150))
    destroyed = []
    window.root.destroy, destroy = lambda: destroyed.append(1), window.root.destroy
    if end == "q":
        press("q")
    else:
        window.root.tk.call(window.root.protocol("WM_DELETE_WINDOW"))
    window.root.destroy = destroy
    path, = tmp_path.glob("*.gif")
    assert destroyed and Image.open(path).n_frames == 1


def test_r_records_a_gif(window, press, tmp_path: Path) -> None:
    window.receive(picture(1))
    press("r")
    for number in (50, 100, 150):
        window.receive(picture(number))
        time.sleep(0.1)
    press("r")
    path, = tmp_path.glob("*.gif")
    with Image.open(path) as recorded:
        assert recorded.n_frames == 3 and recorded.size == (320, 134)
        for number in (50, 100, 150):
            recorded.seek(number // 50 - 1)
            assert 90 <= recorded.info["duration"] <= 400
            assert abs(np.asarray(recorded.convert("L"))[:120, :160].mean() - number) < 3


def test_silence_is_said(window, monkeypatch: pytest.MonkeyPatch) -> None:
    window.receive(picture(1))
    window.receive("frame 1")
    window.watch_silence()
    assert window.line["text"] == "frame 1"
    window._heard_at -= 7
    window.watch_silence()
    window.watch_silence()
    assert window.line["text"] == "frame 1 [no picture for 7 s]"


def test_show_ends_with_its_updates_and_raises_what_they_raise(screen: None) -> None:
    from window import show
    show(iter([picture(1), "frame 1"]), [0], [CameraSettings()])

    def fail() -> Iterator[Picture]:
        yield picture(1)
        raise RuntimeError("the board is on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        show(fail(), [0], [CameraSettings()])


def test_keys_of_the_camera(window, press: Callable[[str], None]) -> None:
    camera = window._camera
    for key, expected in (("m", {"mirror": True}), ("f", {"flip": True}), ("n", {"night": 2}), ("n", {"night": 4}),
                          ("n", {"night": 8}), ("n", {"night": 1}), ("bracketright", {"ceiling": 64}),
                          ("bracketright", {"ceiling": 128}), ("bracketright", {"ceiling": 128}),
                          ("bracketleft", {"ceiling": 64}), ("m", {"mirror": False})):
        press(key)
        (name, value), = expected.items()
        assert getattr(camera[0], name) == value and window.said["text"] == f"camera: {name} {value:d}"
