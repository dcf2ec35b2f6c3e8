"""Folders of photographs: one bad entry stops nothing, what is left out is counted, and work goes on after a stop."""
from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch
from commands import assert_one_error, run
from PIL import Image
from skimage import data

from mirnet_torch import CheckpointError, load_model
from mirnet_torch.cli import atomic_path, is_leftover
from mirnet_torch.compact import CompactMIRNet
from mirnet_torch.enhance import main
from mirnet_torch.images import read_image

PHOTO = data.astronaut()[:48, 200:264] // 4


@pytest.fixture
def album(tmp_path):
    """A folder with two photographs, one of them in a subfolder."""
    for name in ("a.png", "z/b.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PHOTO).save(tmp_path / "in" / name)
    return tmp_path


def enhance_album(capsys, album, *options):
    return run(capsys, main, album / "in", "--out", album / "out", *options)


def results(album):
    return sorted(str(path.relative_to(album / "out")) for path in (album / "out").rglob("*") if path.is_file())


ENTRIES = {
    "symlink loop": (lambda folder: (folder / "bad.png").symlink_to("bad.png"), ["bad.png", "symbolic links"]),
    "loop of folders": (lambda folder: (folder / "bad.png").symlink_to("."), ["bad.png", "directory"]),
    "dangling symlink": (lambda folder: (folder / "bad.png").symlink_to("nowhere"), ["bad.png does not exist"]),
    "fifo": (lambda folder: os.mkfifo(folder / "bad.png"), ["bad.png is not a regular file"]),
    "endless file": (lambda folder: (folder / "bad.png").symlink_to("/dev/zero"), ["bad.png is not a regular file"]),
    "damaged": (lambda folder: (folder / "bad.png").write_bytes(b"no picture"), ["bad.png"]),
    "long name": (lambda folder: Image.fromarray(PHOTO).save(folder / f"{'bad' * 83}.png"), ["bad", "name too long"]),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_one_entry_stops_nothing(capsys, album, entry):
    make, words = ENTRIES[entry]
    make(album / "in")
    result = enhance_album(capsys, album, "--compare")
    if entry == "loop of folders":  # a folder in a folder; it is not followed
        assert (result.status, result.err) == (0, "")
    else:
        assert_one_error(result.status, result.err, "1 of 3 inputs", "2 enhanced into")
        assert all(word.lower() in result.err.splitlines()[0].lower() for word in words), result.err
    assert results(album) == ["a.png", "a_compare.png", "z/b.png", "z/b_compare.png"]


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_a_folder_where_a_result_should_go_stops_nothing(capsys, album, options):
    (album / "out" / "a.png" / "deep").mkdir(parents=True)
    result = enhance_album(capsys, album, *options)
    assert_one_error(result.status, result.err, "1 of 2 inputs")
    assert str(album / "out" / "a.png") in result.err and results(album) == ["z/b.png"]


def test_a_file_where_a_subfolder_should_go_stops_nothing(capsys, album):
    (album / "out").mkdir()
    (album / "out" / "z").write_text("precious")
    result = enhance_album(capsys, album)
    assert_one_error(result.status, result.err, "1 of 2 inputs")
    assert results(album) == ["a.png", "z"] and (album / "out" / "z").read_text() == "precious"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"),
                                   OSError(errno.EIO, "Input/output error")], ids=["python", "torch", "disk"])
def test_one_image_that_is_too_much_is_named_and_stops_nothing(capsys, album, monkeypatch, error):
    forward = CompactMIRNet.forward

    def small_only(self, image, *arguments, **options):
        if image.shape[-1] > 64:
            raise error
        return forward(self, image, *arguments, **options)

    monkeypatch.setattr(CompactMIRNet, "forward", small_only)
    Image.fromarray(np.tile(PHOTO, (1, 2, 1))).save(album / "in" / "large.png")
    result = enhance_album(capsys, album)
    assert_one_error(result.status, result.err, "1 of 3 inputs")
    assert "large.png: " in result.err and results(album) == ["a.png", "z/b.png"]


def test_a_full_disk_ends_the_work_and_names_the_file(capsys, album, monkeypatch):
    def full(self, path, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    result = enhance_album(capsys, album)
    assert_one_error(result.status, result.err, str(album / "out" / "a.png"), "No space left on device", "free some")
    assert result.err.count("\n") == 1 and results(album) == []


def test_what_is_left_out_is_counted(capsys, album):
    for name in ("1.HEIC", "2.heif", "3.dng", "4.CR2", "5.avif", "6.gif", "notes.txt", "z/7.heic"):
        (album / "in" / name).write_bytes(b"something")
    result = enhance_album(capsys, album)
    assert (result.status, result.err) == (0, "")
    assert result.out == (f"2 enhanced into {album / 'out'}; skipped: 3 HEIC, 2 RAW, 1 AVIF, 1 GIF, 1 other files\n")


def test_a_folder_of_what_cannot_be_read_says_what_it_holds(capsys, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.heic").write_bytes(b"something")
    result = run(capsys, main, tmp_path / "in", "--out", tmp_path / "out")
    assert_one_error(result.status, result.err, "folder without images", "it holds 1 HEIC")


def test_a_folder_that_cannot_be_read_is_named(capsys, album, monkeypatch):
    scandir = os.scandir

    def refused(path):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scandir(path)

    (album / "in" / "locked").mkdir()
    monkeypatch.setattr(os, "scandir", refused)  # root reads every folder
    result = enhance_album(capsys, album)
    assert_one_error(result.status, result.err, "1 of 3 inputs", "2 enhanced")
    assert f"cannot read the folder {album / 'in' / 'locked'}: Permission denied" in result.err


def test_skip_existing_goes_on_after_a_stop(capsys, album):
    (album / "out").mkdir()
    (album / "out" / "a.png").write_text("done before")
    result = enhance_album(capsys, album, "--skip-existing")
    assert (result.status, result.out) == (0, f"1 enhanced into {album / 'out'}; skipped: 1 done before\n")
    assert (album / "out" / "a.png").read_text() == "done before" and read_image(album / "out" / "z" / "b.png").any()
    assert_one_error(*_status(enhance_album(capsys, album, "--skip-existing", "--overwrite")), "--skip-existing")


def _status(result):
    return result.status, result.err


def test_leftovers_of_killed_processes_go_and_others_stay(capsys, album):
    program = ("import sys, time; from mirnet_torch.cli import atomic_path\n"
               "with atomic_path(sys.argv[1]) as path: print(path, flush=True); time.sleep(600)")
    process = subprocess.Popen([sys.executable, "-c", program, album / "in" / "x.png"], stdout=subprocess.PIPE,
                               text=True)
    (album / "out").mkdir()
    leftover = process.stdout.readline().strip()
    moved = album / "out" / os.path.basename(leftover)
    moved.write_bytes(b"half")
    for name in (".hidden.png", ".a-notes.png"):
        (album / "out" / name).write_text("precious")
    assert not is_leftover(moved.name)
    assert enhance_album(capsys, album).status == 0
    assert moved.exists()  # its process lives
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert enhance_album(capsys, album, "--overwrite").status == 0
    assert results(album) == [".a-notes.png", ".hidden.png", "a.png", "z/b.png"]


def test_a_temporary_file_of_this_process_is_no_leftover(tmp_path):
    with atomic_path(tmp_path / "a.png") as path:
        assert not is_leftover(path.name)


def test_a_zip_bomb_is_refused_by_its_directory(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(200_000_000))
    start = time.monotonic()
    with pytest.raises(CheckpointError, match="bomb.pth would unpack to 200,000,000 bytes"):
        load_model(tmp_path / "bomb.pth")
    assert time.monotonic() - start < 1


def test_a_fifo_is_no_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "fifo.pth")
    with pytest.raises(CheckpointError, match="not a regular file"):
        load_model(tmp_path / "fifo.pth")


def test_checkpoints_of_torch_are_no_zip_bombs(tmp_path):
    torch.save({"state_dict": {str(number): torch.zeros(1) for number in range(1000)}}, tmp_path / "many.pth")
    with pytest.raises(CheckpointError, match="another network"):
        load_model(tmp_path / "many.pth")
