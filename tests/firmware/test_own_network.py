"""A maker's own network: weights -> `--sketch` -> the simulator answers with the bytes that Python computes."""
from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import assert_one_error, run
from golden import save_random_mcu
from link import Link
from simulator import Simulator
from sketch_tools import SKETCH
from yuv422 import from_yuyv, to_yuyv

from conversion import to_tflite
from conversion.bridge.c_array import read_c_array, write_golden_vectors, write_model_data
from conversion.bridge.chain import golden_vectors
from conversion.bridge.cost import cost
from conversion.bridge.graph import read_graph
from conversion.bridge.runtimes import open_stage
from conversion.frames import paired_frames
from conversion.judge import open_board
from conversion.mirnet import sketch as contract
from conversion.mirnet.prepare import nchw, nhwc
from mirnet_torch import load_model
from mirnet_torch.checkpoint import WEIGHTS
from mirnet_torch.cli import UserError
from mirnet_torch.scenes.sources import validation_frames

SHIPPED = WEIGHTS / "mcu_int8.tflite"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_random_mcu(tmp_path_factory.mktemp("checkpoint") / "mine.safetensors", seed=1)


@pytest.fixture
def sketch(tmp_path) -> Path:
    return shutil.copytree(SKETCH, tmp_path / SKETCH.name)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_own_weights_in_the_sketch_answer_with_python_s_bytes(capsys, checkpoint, sketch, tmp_path) -> None:
    before = contents(sketch)
    answer = run(capsys, to_tflite.main, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--sketch", sketch)
    assert answer.status == 0, answer.err
    assert "The model is in the sketch" in answer.out.splitlines()[-1]
    after = contents(sketch)
    assert before.keys() == after.keys()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == set(contract.GENERATED) - {"golden_vectors.h"}  # which says the same of every model
    for name in contract.GENERATED:
        assert after[name] == (tmp_path / "out" / name).read_bytes()
    model = tmp_path / "out" / "mine_int8.tflite"
    assert read_c_array(sketch / "model_data.cpp") == model.read_bytes()
    board, _ = open_board(model)
    with contextlib.closing(Simulator(sketch=sketch, folder=tmp_path / "cache")) as simulator:
        with contextlib.closing(Link(simulator.port)) as link:
            assert link.self_test()["self-test"] == "passed"
            for _, dark, _ in list(validation_frames(None, (160, 120)))[:2]:
                seen = from_yuyv(to_yuyv(dark))  # what the board's camera would have sent
                picture = link.enhance(dark)
                np.testing.assert_array_equal(picture.dark, seen)
                np.testing.assert_array_equal(picture.bright, board(seen))


def test_the_shipped_sketch_holds_the_model_that_ships(sketch, tmp_path) -> None:
    """Model, header and golden vectors, byte for byte: nothing in the sketch was typed by hand."""
    graph, network = read_graph(SHIPPED), load_model("mcu")
    photograph = paired_frames(None, size=(160, 120), channels=3).dark[:1] / np.float32(255)
    with torch.inference_mode():
        golden = nhwc(network.to_core(nchw(photograph)))
    codes, answer = golden_vectors(SHIPPED, graph, golden)
    write_model_data(SHIPPED, tmp_path, graph=graph, cost=cost(graph),
                     extra=contract.header(graph, network.config, (160, 120)))
    write_golden_vectors(tmp_path, graph=graph, golden_input=codes, golden_output=answer)
    for name in contract.GENERATED:
        assert (sketch / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_the_models_that_ship_are_what_the_bridge_writes_today(capsys, tmp_path) -> None:
    """All codes of int8 are equal, and scales to 1e-5: their last bits follow from the processor that calibrates."""
    assert run(capsys, to_tflite.main, "--checkpoint", "mcu", "--out", tmp_path / "out").status == 0
    shipped, today = (read_graph(path) for path in (SHIPPED, tmp_path / "out" / "mcu_int8.tflite"))
    assert [operator.name for operator in shipped.operators] == [operator.name for operator in today.operators]
    for one, other in zip(shipped.tensors, today.tensors):
        assert (one.name, one.shape, one.dtype, one.zero_points) == \
            (other.name, other.shape, other.dtype, other.zero_points)
        assert one.scales == pytest.approx(other.scales, rel=1e-5)
    files = [np.frombuffer(path.read_bytes(), np.uint8) for path in (SHIPPED, tmp_path / "out" / "mcu_int8.tflite")]
    assert len(files[0]) == len(files[1]) and np.count_nonzero(files[0] != files[1]) < 4 * sum(
        len(tensor.scales) for tensor in shipped.tensors)
    core = np.random.default_rng(0).random((1, 24, 32, 75), np.float32)
    floats = [open_stage(folder / "mcu_float32.tflite").run(core) for folder in (WEIGHTS, tmp_path / "out")]
    np.testing.assert_allclose(*floats, rtol=0, atol=1e-4)


def test_a_model_that_is_refused_leaves_the_sketch_alone(capsys, checkpoint, sketch, tmp_path) -> None:
    before = contents(sketch)
    answer = run(capsys, to_tflite.main, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--sketch", sketch,
                 "--arena-limit", "8k")
    assert_one_error(answer.status, answer.err, "the arena needs ", "the limit is 8,000")
    assert contents(sketch) == before and not (tmp_path / "out").exists()


def test_all_files_or_none(sketch, tmp_path, monkeypatch) -> None:
    """The disk fails at the third of the four files: the first two are what they were."""
    before = contents(sketch)
    new = tmp_path / "new"
    new.mkdir()
    for name in contract.GENERATED:
        (new / name).write_text("another model")
    replace, calls = os.replace, []

    def fail_at_the_third(source, target):
        calls.append(target)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_at_the_third)
    with pytest.raises(UserError, match="No space left on device; it is as it was"):
        contract.install([new / name for name in contract.GENERATED], sketch)
    assert contents(sketch) == before
    monkeypatch.undo()
    contract.install([new / name for name in contract.GENERATED], sketch)
    changed = {name for name, content in contents(sketch).items() if content == b"another model"}
    assert changed == set(contract.GENERATED)
