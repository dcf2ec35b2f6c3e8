"""The two commands on bad input and `compare.py` on real artefacts."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import assert_one_error, run

from conversion import compare, to_tflite
from conversion.bridge import convert
from conversion.bridge.runtimes import TorchStage
from conversion.frames import calibration_frames, without_light
from conversion.mirnet.prepare import prepare
from mirnet_torch.checkpoint import load_model, save_model
from mirnet_torch.compact import CompactConfig
from mirnet_torch.files.images import camera_size, luma, read_image, write_image
from mirnet_torch.model import MIRNet, MIRNetConfig
from mirnet_torch.presets import create_model

CONVERSION = Path(to_tflite.__file__).parent


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    save_model(create_model("mcu"), path)
    return path


def folder_of_images(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        write_image(np.full((24, 32, 3), 40 + i, np.uint8), folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("level, warned", [(10, True), (120, False)])
def test_a_calibration_without_lit_pictures_is_warned_of(tmp_path, level, warned):
    """16 dark pictures alone: the board's int8 maps burnt 81 % of the bright pixels of normally lit frames."""
    folder = folder_of_images(tmp_path / "pictures", 3)
    write_image(np.full((24, 32, 3), level, np.uint8), folder / "last.png")
    sentences = without_light(calibration_frames(folder, size=(16, 12), channels=3))
    assert ["--calibration is normally lit (the brightest has a mean of 42 of 255)" in each for each in sentences] == \
        [True] * warned
    assert without_light(calibration_frames(None, size=(16, 12), channels=3)) == []


def test_help_is_readable_and_quick(capsys):
    answer = run(capsys, to_tflite.main, "--help")
    assert answer.status == 0
    for text in ("--calibration", "--arena-limit", "arduino-tflm", "NAME_int8.tflite", "exit status", "160x120"):
        assert text in answer.out
    program = ("import sys; sys.argv = ['x', '--help']\ntry:\n  from conversion.to_tflite import main; main()\n"
               "except SystemExit: assert 'tensorflow' not in sys.modules and 'onnx' not in sys.modules")
    subprocess.run([sys.executable, "-c", program], check=True, cwd=CONVERSION.parent, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("command", [["to_tflite.py"], ["compare.py"], ["-m", "conversion.to_tflite"],
                                     ["-m", "conversion.compare"]])
def test_commands_start_as_scripts_and_as_modules(command, tmp_path):
    if command[0] != "-m":
        command = [str(CONVERSION / command[0])]
    environment = dict(os.environ, PYTHONPATH=str(CONVERSION.parent) if command[0] == "-m" else "")
    answer = subprocess.run([sys.executable, *command, "--help"], cwd=tmp_path, env=environment, capture_output=True,
                            text=True)
    assert answer.returncode == 0 and answer.stdout.startswith("usage:") and answer.stderr == ""


@pytest.mark.parametrize("arguments, words", [
    (["--size", "161x120"], ["161x120", "multiples of ", "160x120"]),
    (["--size", "0x120"], ["0x120", "multiples of "]),
    (["--size", "large"], ["'large' is not a size", "160x120"]),
    (["--target", "esp32"], ["no target 'esp32'", "arduino-tflm, litert"]),
    (["--arena-limit", "much"], ["--arena-limit", "'much' is not a number of bytes"]),
    (["--flash-limit", "1,5k"], ["--flash-limit", "'1,5k' is not a number of bytes"]),
    (["--calibration", ""], ["--calibration", "the name is empty"]),
    (["--calibration", "missing"], ["missing is not a folder"]),
    (["--pairs", "missing"], ["missing is not a folder"]),
    (["--size", "80x40"], ["the sketch's frames have 160x120 pixels, not 80x40", "leave out --size",
                           "--target litert"]),
    (["--sketch", "missing"], ["missing is not the sketch", "mirnet_nano33ble"]),
    (["--sketch", ".", "--target", "litert"], ["--sketch needs C++", "leave out --target"]),
])
def test_bad_arguments(capsys, checkpoint, tmp_path, arguments, words):
    answer = run(capsys, to_tflite.main, "--checkpoint", checkpoint, "--out", tmp_path / "out", *arguments)
    assert_one_error(answer.status, answer.err, *words)
    assert os.listdir(tmp_path) == []


def test_calibration_folders_without_enough_images(capsys, checkpoint, tmp_path):
    for count, words in ((0, "has no images"), (1, "has one image only (0.png)")):
        folder = folder_of_images(tmp_path / f"with{count}", count)
        answer = run(capsys, to_tflite.main, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--calibration",
                     folder)
        assert_one_error(answer.status, answer.err, words, "at least 2 dark images")
    folder = folder_of_images(tmp_path / "damaged", 3)
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:40])
    answer = run(capsys, to_tflite.main, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--calibration", folder)
    assert_one_error(answer.status, answer.err, "1.png is")
    assert not (tmp_path / "out").exists()


def test_pairs_that_are_no_pairs_or_calibrated_on(capsys, checkpoint, tmp_path):
    folder_of_images(tmp_path / "pairs" / "low", 3)
    folder_of_images(tmp_path / "pairs" / "high", 3)
    answer = run(capsys, to_tflite.main, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--pairs",
                 tmp_path / "pairs", "--calibration", tmp_path / "pairs")
    assert_one_error(answer.status, answer.err, "3 of the 3 pictures", "--calibration and --pairs different pictures")
    (tmp_path / "pairs" / "high" / "2.png").unlink()
    answer = run(capsys, to_tflite.main, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--pairs",
                 tmp_path / "pairs")
    assert_one_error(answer.status, answer.err, "2.png has no partner")


def test_checkpoints_that_cannot_be_converted(capsys, tmp_path):
    def words_for(path) -> tuple[int, str]:
        answer = run(capsys, to_tflite.main, "--checkpoint", path, "--out", tmp_path / "out")
        return answer.status, answer.err

    assert_one_error(*words_for(tmp_path / "none.pt"), "does not exist")
    torch.save({"features.0.weight": torch.zeros(3, 3)}, tmp_path / "other.pt")
    assert_one_error(*words_for(tmp_path / "other.pt"), "of another network")
    (tmp_path / "noise.pt").write_bytes(b"noise" * 50)
    assert_one_error(*words_for(tmp_path / "noise.pt"), "is not a checkpoint")
    five = MIRNetConfig(in_channels=5, out_channels=5, n_feat=8, n_RRG=1, n_MSRB=1, height=1)
    save_model(MIRNet(five), tmp_path / "five.safetensors")
    assert_one_error(*words_for(tmp_path / "five.safetensors"), "not 5 channels")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("config, words", [
    (MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=1, height=2), ["published network predicts pictures", "--preset mcu"]),
    (CompactConfig(in_channels=1), ["RGB frames", "takes 1 channels", "in_channels=3"]),
    (CompactConfig(cell=10), ["at most 5x5 pixels", "has 10x10", "smaller cells"])], ids=["published", "grey", "cells"])
def test_networks_that_the_sketch_cannot_use(capsys, tmp_path, config, words):
    """Before anything is converted: what the compiler or the board would refuse later, and the fix."""
    save_model(create_model(config), tmp_path / "other.safetensors")
    answer = run(capsys, to_tflite.main, "--checkpoint", tmp_path / "other.safetensors", "--out", tmp_path / "out",
                 "--target", "arduino-tflm", "--size", "160x120")
    assert_one_error(answer.status, answer.err, *words, "--target litert")
    assert not (tmp_path / "out").exists()


def test_folders_that_cannot_be_made(capsys, checkpoint, tmp_path):
    def words_for(out, *more) -> tuple[int, str]:
        answer = run(capsys, to_tflite.main, "--checkpoint", checkpoint, "--out", out, *more)
        return answer.status, answer.err

    full = folder_of_images(tmp_path / "full", 1)
    assert_one_error(*words_for(full), "exists already", "--force")
    assert_one_error(*words_for(full, "--force"), "was not made by a conversion")
    assert os.listdir(full) == ["0.png"]
    assert_one_error(*words_for(full / "0.png"), "is a file")
    assert_one_error(*words_for(full / "0.png" / "out"), "cannot write", "another --out")
    assert_one_error(*words_for("/proc/out"), "cannot write /proc/out")  # read-only for root, too


@pytest.fixture(scope="module")
def artefacts(checkpoint, tmp_path_factory):
    """ONNX and TFLite files of the checkpoint at 80x40."""
    folder = tmp_path_factory.mktemp("artefacts")
    prepared = prepare(load_model(checkpoint), (80, 40))
    dark = calibration_frames(None, size=(80, 40), channels=3).pick(4).dark
    files = convert(prepared.network, prepared.input_shape, prepared.to_core(dark.astype(np.float32) / 255), folder,
                    name="small")
    return files.onnx, files


def test_compare_equal_artefacts(capsys, checkpoint, artefacts):
    onnx, files = artefacts
    answer = run(capsys, compare.main, checkpoint, onnx)
    assert answer.status == 0, answer.out + answer.err
    assert "no tensor differs by more than 0.0001" in answer.out and "body.0.body.0" in answer.out
    assert "A against the network it was made from: max " in answer.out
    answer = run(capsys, compare.main, onnx, files.float32, "--atol", "1e-4")
    assert answer.status == 0, answer.out + answer.err
    answer = run(capsys, compare.main, f"reference:{files.int8}", f"micro:{files.int8}", "--atol", "0")
    assert answer.status == 0, answer.out + answer.err
    assert answer.out.count("equal") > 40


def test_compare_finds_the_first_tensor_that_differs(capsys, checkpoint, artefacts, tmp_path):
    onnx, files = artefacts
    model = load_model(checkpoint)
    with torch.no_grad():
        model.body[0].body[0].blocks[1][0].body[2].weight[3] += 0.5
    save_model(model, tmp_path / "changed.safetensors")
    answer = run(capsys, compare.main, tmp_path / "changed.safetensors", onnx)
    assert answer.status == 1
    assert re.search(r"first tensor that differs by more than 0.0001: \S+blocks\.1\S*\.body\.2/Conv ", answer.out)
    answer = run(capsys, compare.main, files.float32, files.int8)
    assert answer.status == 1 and "first tensor that differs" in answer.out and " dB" in answer.out


@pytest.mark.parametrize("config", [CompactConfig(), CompactConfig(cell=1), CompactConfig(in_channels=1, cell=3),
                                    MIRNetConfig(n_feat=8)])
def test_compare_codes_a_picture_as_the_network_does(tmp_path, config):
    write_image(np.arange(24 * 36 * 3, dtype=np.uint8).reshape(24, 36, 3), tmp_path / "night.png")
    size = (60, 40) if getattr(config, "cell", 1) == 5 else (36, 24)
    prepared = prepare(create_model(config), size)
    network, method = prepared.original
    stage = TorchStage(network, prepared.input_shape, name="PyTorch", method=method)
    found = compare._picture(str(tmp_path / "night.png"), stage)
    picture = camera_size(read_image(tmp_path / "night.png"), size)
    picture = luma(picture)[..., None] if config.in_channels == 1 else picture
    expected = prepared.to_core(picture[None].astype(np.float32) / 255)
    assert found.shape == expected.shape and np.abs(found - expected).max() <= 1e-6


def test_compare_on_a_picture_of_the_users(capsys, artefacts, tmp_path):
    onnx, files = artefacts
    write_image(np.full((30, 40, 3), 20, np.uint8), tmp_path / "night.png")
    assert run(capsys, compare.main, onnx, files.float32, "--image", tmp_path / "night.png").status == 0
    answer = run(capsys, compare.main, onnx, files.float32, "--image", tmp_path / "none.png")
    assert_one_error(answer.status, answer.err, "none.png does not exist")


@pytest.mark.parametrize("atol", ["nan", "inf", "-1", "small"])
def test_compare_refuses_a_tolerance_that_is_none(capsys, atol):
    """Nothing is above NaN: with --atol nan every pair of artefacts was equal."""
    answer = run(capsys, compare.main, "mcu", "mcu", f"--atol={atol}")
    assert_one_error(answer.status, answer.err, f"'{atol}' is not a number from 0 up")


def test_compare_refuses_what_is_no_pair_of_artefacts(capsys, checkpoint, artefacts, tmp_path):
    onnx, files = artefacts
    for name in ("none.onnx", "none.tflite", "none.pt"):
        answer = run(capsys, compare.main, onnx, tmp_path / name)
        assert_one_error(answer.status, answer.err, name)
    (tmp_path / "noise.tflite").write_bytes(b"noise" * 100)
    answer = run(capsys, compare.main, onnx, tmp_path / "noise.tflite")
    assert_one_error(answer.status, answer.err, "noise.tflite")
    (tmp_path / "noise.onnx").write_bytes(b"noise" * 100)
    answer = run(capsys, compare.main, tmp_path / "noise.onnx", onnx)
    assert_one_error(answer.status, answer.err, "noise.onnx")
    answer = run(capsys, compare.main, onnx, f"micro:{files.float32}")
    assert answer.status in (0, 1, 2) and "Traceback" not in answer.err
