"""The whole bridge on a small `mcu` network: artefacts, parity, determinism, limits, interruption."""
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import assert_one_error, run
from golden import save_random_mcu

from conversion import convert
from conversion.bridge.c_array import read_c_array
from conversion.bridge.chain import check_fit
from conversion.bridge.graph import read_graph
from conversion.bridge.target import TARGETS, violations
from conversion.frames import calibration_frames, paired_frames, require_disjoint
from conversion.pipeline import _folder_for
from conversion.to_tflite import main
from mirnet_torch.cli import UserError
from mirnet_torch.files.images import read_image, write_image

SCRIPT = Path(__file__).parents[2] / "conversion" / "to_tflite.py"
SIZE = (80, 40)  # of frames for the tests of frames; the sketch takes 160x120 only


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_random_mcu(tmp_path_factory.mktemp("checkpoint") / "small.safetensors", seed=0)


@pytest.fixture
def sketch(tmp_path):
    return shutil.copytree(SCRIPT.parents[1] / "firmware" / "mirnet_nano33ble", tmp_path / "mirnet_nano33ble")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def done(checkpoint, folder):
    return convert(checkpoint, folder / "first")


def test_importing_the_package_loads_nothing_heavy():
    program = "import sys, conversion; assert not {'torch', 'tensorflow', 'onnx'} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=SCRIPT.parents[1])


def test_the_folder_holds_what_the_result_lists(done, folder):
    assert {path.name for path in done.folder.iterdir()} == {
        "small_equalised.safetensors", "small.onnx", "small_float32.tflite", "small_float16.tflite",
        "small_int8.tflite", "model_data.h", "model_data.cpp", "golden_vectors.h", "golden_vectors.cpp", "report.json",
        "report.html"}
    listed = (done.equalised, done.onnx, done.float32, done.float16, done.int8, *done.c_files, done.report_json,
              done.report_html)
    assert sorted(listed) == sorted(done.folder.iterdir())
    assert [path.name for path in folder.iterdir()] == ["first"], "something was left outside OUT"


def test_every_stage_is_within_its_tolerance(done):
    assert [(row.stage, row.before) for row in done.parity] == [
        ("PyTorch", ""), ("deployable form", "PyTorch"), ("ONNX", "deployable form"), ("TFLite float32", "ONNX"),
        ("TFLite float16", "TFLite float32"), ("TFLite int8", "TFLite float32"),
        ("int8, reference kernels", "TFLite int8"), ("int8, tflite-micro", "int8, reference kernels"),
        ("C array, tflite-micro", "int8, tflite-micro")]
    assert done.missed == []
    assert [str(row.tolerance) for row in done.parity if row.tolerance] == [
        "max <= 2e-05", "max <= 1e-05", "max <= 0.0001", "SQNR >= 40 dB", "mean <= 2 steps", "0 differing bytes",
        "0 differing bytes"]
    assert all(row.psnr is not None and 3 < row.psnr < 60 for row in done.parity)
    assert done.parity[-1].change.differing == 0 and done.parity[-1].change.size > 1000


def test_the_model_keeps_the_contract_with_these_operators(done):
    assert done.target == "arduino-tflm"
    assert violations(read_graph(done.int8), TARGETS["arduino-tflm"]) == []
    assert done.operators == {"ADD": 5, "AVERAGE_POOL_2D": 4, "CONCATENATION": 4, "CONV_2D": 21, "MAX_POOL_2D": 2,
                              "MUL": 8, "RESIZE_BILINEAR": 1}


def test_the_c_array_is_the_model(done):
    assert read_c_array(done.c_files[1]) == done.int8.read_bytes()


def test_layers_and_report(done):
    assert len(done.layers) > 40
    assert "conv_in" in {layer.module for layer in done.layers} and any("blocks.1" in layer.b for layer in done.layers)
    assert all(layer.step > 0 for layer in done.layers)
    document = json.loads(done.report_json.read_text())
    assert len(document["layers"]) == len(done.layers)
    assert document["subject"]["checkpoint"] == "small.safetensors" and document["subject"]["image"] == [160, 120]
    assert len(document["files"]["small_int8.tflite"]["sha256"]) == 64
    assert document["operator_counts"] == done.operators


def test_the_same_arguments_give_the_same_bytes_from_any_folder(done, checkpoint, tmp_path):
    """Run as a script, from elsewhere, into a folder of another name."""
    answer = subprocess.run([sys.executable, SCRIPT, "--checkpoint", checkpoint, "--out", "again"],
                            cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[0].startswith("stage") and answer.stdout.rstrip().endswith("report.html")
    assert answer.stdout.splitlines()[-1].startswith("Passed: all ")
    again = tmp_path / "again"
    assert sorted(os.listdir(again)) == sorted(os.listdir(done.folder))
    for path in done.folder.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), f"{path.name} differs from run to run"
    assert sorted(os.listdir(tmp_path)) == ["again"]


def test_a_missed_tolerance_is_the_verdict_and_a_status(capsys, checkpoint, sketch, tmp_path):
    """Ranges chosen on black pictures: everything is written, but the sketch keeps its model."""
    (tmp_path / "black").mkdir()
    for name in "ab":
        write_image(np.zeros((120, 160, 3), np.uint8), tmp_path / "black" / f"{name}.png")
    before = {path.name: path.read_bytes() for path in sketch.iterdir()}
    answer = run(capsys, main, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--calibration",
                 tmp_path / "black", "--sketch", sketch)
    assert answer.status == 3
    assert_one_error(answer.status, answer.err, "Failed, not within the tolerance: TFLite int8 (tolerance ",
                     "mean <= 2 steps, measured ", "The sketch was not changed.", str(tmp_path / "out" / "report.html"))
    assert " gains " not in answer.out
    page = (tmp_path / "out" / "report.html").read_text()
    title, verdict = page.index("<h1>"), page.index("Failed, not within the tolerance")
    assert page[title:verdict].count("<p") == 1  # the verdict is the first paragraph
    assert {path.name: path.read_bytes() for path in sketch.iterdir()} == before


@pytest.fixture
def small_disk(tmp_path):
    """A disk with room for 900 kB: for the ONNX file, but not for what the converter writes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_named_and_out_does_not_appear(capsys, checkpoint, small_disk):
    answer = run(capsys, main, "--checkpoint", checkpoint, "--out", small_disk / "out")
    assert_one_error(answer.status, answer.err, f"cannot write {small_disk / 'out'}: No space left on device", "--out")
    assert answer.status == 2 and os.listdir(small_disk) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing(checkpoint, tmp_path, number):
    process = subprocess.Popen([sys.executable, SCRIPT, "--checkpoint", checkpoint, "--out", tmp_path / "out"],
                               stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.time() + 120
    while not list(tmp_path.glob(".out-*/out/*.onnx")):  # in the middle of the work
        assert process.poll() is None and time.time() < deadline, process.stderr.read()
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and errors.strip().endswith("interrupted") and "Traceback" not in errors
    assert os.listdir(tmp_path) == []


def test_the_converter_does_not_outlive_a_killed_run(checkpoint, tmp_path):
    process = subprocess.Popen([sys.executable, SCRIPT, "--checkpoint", checkpoint, "--out", tmp_path / "out"],
                               stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not list(tmp_path.glob(".out-*/out/.conversion-*/*.npy")):  # the converter's own process has begun
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert any(map(running, children))
    process.kill()
    process.wait()
    time.sleep(1)
    assert not any(map(running, children))  # it would have worked for many seconds more


def running(number: str) -> bool:
    try:
        return Path("/proc", number, "stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_what_a_killed_run_left_is_removed(tmp_path):
    """The folder of a running conversion, folders with similar names, and an earlier OUT put aside are kept."""
    out = tmp_path / "out"
    with _folder_for(out, replace=False) as living:
        for name in (".out-killed_1/out", ".out-settings/mine", ".out-killed_2/out", ".out-killed_2/replaced"):
            (tmp_path / name).mkdir(parents=True)
        with _folder_for(out, replace=False) as own:
            left = {path.name for path in tmp_path.iterdir()} - {living.parent.name, own.parent.name}
        assert left == {".out-settings", ".out-killed_2"} and living.is_dir()


def test_a_model_that_does_not_fit_is_refused_with_figures_and_replaces_nothing(capsys, checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("report.json", "other"):
        (tmp_path / "out" / name).write_text("{}")
    answer = run(capsys, main, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--force",
                 "--arena-limit", "8k")
    assert_one_error(answer.status, answer.err, "the arena needs ", "the limit is 8,000", "largest tensors",
                     "conv_in/Conv", "--arena-limit")
    assert os.listdir(tmp_path) == ["out"] and sorted(os.listdir(tmp_path / "out")) == ["other", "report.json"]


def test_flash_limit(done):
    check_fit(done.cost, arena_limit=done.cost.arena_bytes, flash_limit=done.int8.stat().st_size)
    with pytest.raises(UserError, match=r"model has [\d,]+ bytes, the flash limit is 30,000; the largest weights: "
                                        r".*\[24, 3, 3, 24\] int8 \(5,280 bytes\)"):
        check_fit(done.cost, arena_limit=None, flash_limit=30_000)


def test_calibration_and_test_frames_are_disjoint():
    calibration = calibration_frames(None, size=SIZE, channels=3)
    tested = paired_frames(None, size=SIZE, channels=3)
    require_disjoint(calibration, tested)
    assert calibration.dark.shape == (96, 40, 80, 3) and tested.dark.shape == (6, 40, 80, 3) == tested.bright.shape
    assert not {name.split("-")[0] for name in calibration.names} & {name.split("-")[0] for name in tested.names}
    with pytest.raises(UserError, match="6 of the 6 pictures to test on are also calibrated on"):
        require_disjoint(tested, tested)
    assert calibration.pick(10).names[0] == "astronaut-1" and len(calibration.pick(10).names) == 10
    assert calibration_frames(None, size=SIZE, channels=3, most=10).names == calibration.pick(10).names
    assert calibration_frames(None, size=SIZE, channels=1).dark.shape == (96, 40, 80, 1)


@pytest.mark.parametrize("low", ["low", "Low"])
def test_calibration_folders_may_have_the_layout_of_pairs(tmp_path, low):
    (tmp_path / low).mkdir()
    for i in range(3):
        write_image(np.full((40, 60, 3), 10 * i, np.uint8), tmp_path / low / f"{i}.png")
    frames = calibration_frames(tmp_path, size=SIZE, channels=3)
    assert frames.names == ("0.png", "1.png", "2.png") and frames.dark[:, 0, 0, 0].tolist() == [0, 10, 20]


def test_only_the_pictures_of_a_folder_that_are_used_are_read(tmp_path, monkeypatch):
    for i in range(20):
        write_image(np.full((40, 60, 3), 10 * i, np.uint8), tmp_path / f"{i:02}.png")
    whole, read = calibration_frames(tmp_path, size=SIZE, channels=3).pick(4), []
    monkeypatch.setattr("conversion.frames.read_image", lambda path: read.append(path.name) or read_image(path))
    frames = calibration_frames(tmp_path, size=SIZE, channels=3, most=4)
    assert frames.names == whole.names == tuple(read) and np.array_equal(frames.dark, whole.dark)
