"""Folders of photographs: one bad entry stops nothing, what is left out is counted, and work goes on after a stop."""
from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest
import torch
from commands import assert_one_error, run
from PIL import Image
from skimage import data

import mirnet_torch.cli
import mirnet_torch.files.album
from mirnet_torch import CheckpointError, load_model
from mirnet_torch.cli import atomic_path, is_leftover
from mirnet_torch.compact import CompactMIRNet
from mirnet_torch.enhance import main
from mirnet_torch.files.folders import find_jobs
from mirnet_torch.files.images import read_image
from mirnet_torch.training.run_folder import _damaged_member

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
    to_core = CompactMIRNet.to_core

    def small_only(self, image):
        if image.shape[-1] > 100:
            raise error
        return to_core(self, image)

    monkeypatch.setattr(CompactMIRNet, "to_core", small_only)
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


def test_photographs_are_taken_in_natural_order(tmp_path):
    """The frames of a video that are numbered without zeros come in their order."""
    for name in ("frame10.png", "frame9.png", "frame1.png", "part10/a.png", "part2/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    jobs = find_jobs([tmp_path], tmp_path / "out", compare=False).jobs
    assert [os.path.relpath(job.source, tmp_path) for job in jobs] == [
        "frame1.png", "frame9.png", "frame10.png", "part2/a.png", "part10/a.png"]


@pytest.fixture
def without_extras(monkeypatch):
    monkeypatch.setattr("mirnet_torch.files.photographs._has", lambda extra: False)


def test_what_is_left_out_is_counted(capsys, album, without_extras):
    for name in ("1.HEIC", "2.heif", "3.dng", "4.CR2", "5.avif", "6.gif", "notes.txt", "z/7.heic"):
        (album / "in" / name).write_bytes(b"something")
    result = enhance_album(capsys, album)
    assert (result.status, result.err) == (0, "")
    assert result.out == (f"2 enhanced into {album / 'out'}; skipped: 3 HEIC, 2 RAW, 1 AVIF, 1 GIF, 1 other files "
                          "(to read them: pip install \"mirnet-torch[heic,raw]\")\n")


def test_a_folder_of_what_cannot_be_read_says_what_it_holds(capsys, tmp_path, without_extras):
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


def test_skip_existing_completes_what_lacks_its_comparison(capsys, album):
    assert enhance_album(capsys, album, "--compare").status == 0
    whole = {name: (album / "out" / name).read_bytes() for name in results(album)}
    (album / "out" / "a_compare.png").unlink()  # as after a kill between the two writes
    (album / "out" / "a.png").write_text("of a run without --compare")
    result = enhance_album(capsys, album, "--compare", "--skip-existing")
    assert (result.status, result.err) == (0, "") and "1 enhanced" in result.out and "1 done before" in result.out
    assert {name: (album / "out" / name).read_bytes() for name in results(album)} == whole


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


def test_the_mode_is_the_systems_and_its_mask_is_never_changed(tmp_path, monkeypatch):
    """For a moment files of other threads would be writable for everybody."""
    (tmp_path / "plain.png").write_bytes(b"")
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("another thread's files would get this mask"))
    with atomic_path(tmp_path / "a.png"):
        pass
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain.png").stat().st_mode


def test_files_of_other_machines_of_equal_names_are_no_leftovers(monkeypatch):
    """Host names that differ after many letters, and containers of one host name on two machines or on one."""
    monkeypatch.setattr(mirnet_torch.cli.platform, "node", lambda: "node-of-a-large-cluster-in-the-north-1.example.com")
    here = mirnet_torch.cli.machine()
    assert here == mirnet_torch.cli.machine() and here.isalnum() and len(here) <= 24
    others = []
    with monkeypatch.context() as patched:
        patched.setattr(mirnet_torch.cli.platform, "node", lambda: "node-of-a-large-cluster-in-the-north-2.example.com")
        others.append(mirnet_torch.cli.machine())
    with monkeypatch.context() as patched:
        patched.setattr(mirnet_torch.cli, "BOOT_ID", "/proc/sys/kernel/osrelease")
        others.append(mirnet_torch.cli.machine())
    with monkeypatch.context() as patched:
        patched.setattr(os, "readlink", lambda path: "pid:[1]")
        others.append(mirnet_torch.cli.machine())
    with monkeypatch.context() as patched:
        patched.setattr(mirnet_torch.cli, "BOOT_ID", "/nowhere")
        others.append(mirnet_torch.cli.machine())
    assert len({here, *others}) == 5
    dead = 2 ** 22 + 1  # beyond the largest process number of Linux
    assert is_leftover(f".a-{mirnet_torch.cli._OWNER.format(dead)}-abcdefgh.png")
    assert not any(is_leftover(f".a-{other}p{dead}-abcdefgh.png") for other in others)


def test_a_zip_bomb_is_refused_by_its_directory(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(200_000_000))
    start = time.monotonic()
    with pytest.raises(CheckpointError, match="bomb.pth would unpack to 200,000,000 bytes"):
        load_model(tmp_path / "bomb.pth")
    assert time.monotonic() - start < 1


def test_a_member_whose_name_is_no_text_is_damage(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("\u00e9.pkl", b"")
    whole = (tmp_path / "a.zip").read_bytes()
    with io.BytesIO(whole.replace("\u00e9".encode(), b"\xff\xff")) as file:
        assert "can't decode byte 0xff" in _damaged_member(file)


def test_a_fifo_is_no_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "fifo.pth")
    with pytest.raises(CheckpointError, match="not a regular file"):
        load_model(tmp_path / "fifo.pth")


def test_checkpoints_of_torch_are_no_zip_bombs(tmp_path):
    torch.save({"state_dict": {str(number): torch.zeros(1) for number in range(1000)}}, tmp_path / "many.pth")
    with pytest.raises(CheckpointError, match="another network"):
        load_model(tmp_path / "many.pth")


# Sharing, the list of failures, many threads


def test_the_list_of_what_failed(capsys, album):
    (album / "in" / "bad.png").write_bytes(b"no picture")
    (album / "in" / "two\nlines.png").write_bytes(b"no picture")
    (album / "in" / "z" / "gone.png").symlink_to("nowhere")
    result = enhance_album(capsys, album, "--failed", album / "failed.tsv")
    assert_one_error(result.status, result.err, "3 of 5 inputs")
    lines = [line.split("\t") for line in (album / "failed.tsv").read_text().splitlines()]
    assert [name for name, _ in lines] == [str(album / "in" / name) for name in ("bad.png", r"two\nlines.png",
                                                                                 "z/gone.png")]
    assert "is not a readable image" in lines[0][1] and "does not exist" in lines[2][1]
    for name in ("bad.png", "two\nlines.png", "z/gone.png"):
        (album / "in" / name).unlink()
    assert enhance_album(capsys, album, "--skip-existing", "--failed", album / "failed.tsv").status == 0
    assert (album / "failed.tsv").read_text() == ""


@pytest.fixture
def one_thread():
    """Give torch one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_several_at_a_time_give_what_one_gives(capsys, album, monkeypatch):
    """Bytes and the order of messages do not depend on the number of threads, and several really work.

    Torch has one thread in both: with two its sums differ by 1e-7 on some processors, which can turn a level.
    """
    random = np.random.default_rng(0)
    for number in range(12):
        height, width = random.integers(30, 90, 2)
        Image.fromarray(random.integers(0, 60, (height, width, 3)).astype(np.uint8)).save(
            album / "in" / f"{number:02}.png")
    for number in (3, 7):
        (album / "in" / f"{number:02}.png").write_bytes(b"no picture")
    outcomes, seen = [], set()
    enhance_file = mirnet_torch.files.album.enhance_file

    def watched(*arguments):
        seen.add(threading.get_ident())
        return enhance_file(*arguments)

    monkeypatch.setattr("mirnet_torch.files.album.enhance_file", watched)
    for threads in (1, 3):
        monkeypatch.setattr(sys.modules[main.__module__], "usable_threads", lambda: threads)
        result = enhance_album(capsys, album, "--overwrite")
        outcomes.append((result, [(name, (album / "out" / name).read_bytes()) for name in results(album)]))
        assert len(seen) == threads if threads == 1 else len(seen) > 2
    assert outcomes[0] == outcomes[1] and len(outcomes[0][1]) == 12


def test_processes_share_a_folder(album):
    """Two processes of torchrun: each image is done once, the first reports for both, failures are in one list."""
    for number in range(5):
        Image.fromarray(PHOTO).save(album / "in" / f"{number}.png")
    (album / "in" / "bad.png").write_bytes(b"no picture")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
               "mirnet_torch.enhance", str(album / "in"), "--out", str(album / "out"), "--failed",
               str(album / "failed.tsv")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert done.stderr.count(f"error: 1 of 8 inputs were not enhanced, for the reasons above; 7 enhanced into "
                             f"{album / 'out'}") == 1
    assert (album / "failed.tsv").read_text().startswith(f"{album / 'in' / 'bad.png'}\t")
    assert len(results(album)) == 7
    (album / "in" / "bad.png").unlink()
    done = subprocess.run([*command, "--skip-existing"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"0 enhanced into {album / 'out'}; skipped: 7 done before\n")
