"""Bridge and sketch agree: one list of operators, one set of limits, one model."""
from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from sketch_tools import SKETCH, complaint

from conversion.bridge.c_array import read_c_array
from conversion.bridge.graph import read_graph
from conversion.bridge.target import TARGETS, resolver_methods, violations
from conversion.mirnet.sketch import SKETCH as CONTRACT
from mirnet_torch.checkpoint import WEIGHTS


def test_registered_operators_are_those_of_the_model(tmp_path, model_constants: dict[str, float]) -> None:
    model = read_c_array(SKETCH / "model_data.cpp")
    (tmp_path / "model.tflite").write_bytes(model)
    graph = read_graph(tmp_path / "model.tflite")
    header = (SKETCH / "model_data.h").read_text()
    registered = re.findall(r"resolver->(Add\w+)\(\)", header)
    assert sorted(registered) == sorted(resolver_methods(graph))
    assert len(registered) == model_constants["kOperatorCount"] == len(graph.counts())
    assert violations(graph, TARGETS["arduino-tflm"]) == []
    for name, tensor in (("Input", graph.inputs[0]), ("Output", graph.outputs[0])):
        assert np.float32(model_constants[f"k{name}Scale"]) == np.float32(tensor.scale)
        assert model_constants[f"k{name}ZeroPoint"] == tensor.zero_point
    assert hashlib.sha256(model).hexdigest() in header


def limits(model_constants: dict[str, float]) -> dict[str, int]:
    """The largest values of constants in model_data.h that the sketch takes, as the bridge computes them."""
    frame = 2 * model_constants["kImageWidth"] * model_constants["kImageHeight"]
    arena = model_constants["kMemoryLimit"] - frame - model_constants["kBufferBytes"]
    return {"kArenaBytes": int(arena), "kModelSize": int(model_constants["kFlashLimit"])}


def test_limits_of_the_bridge_are_those_in_the_header(model_constants: dict[str, float]) -> None:
    assert limits(model_constants) == {"kArenaBytes": CONTRACT.arena_limit,
                                       "kModelSize": CONTRACT.flash_limit}


@pytest.mark.parametrize("compiler", ["g++", "arm-none-eabi-g++"])
@pytest.mark.parametrize("constant, step, said", [("kArenaBytes", 16, "take too much memory"),
                                                  ("kModelSize", 1, "takes too much flash")])
def test_the_compiler_takes_the_limit_and_not_a_step_more(tmp_path: Path, model_constants: dict[str, float],
                                                          compiler: str, constant: str, step: int, said: str) -> None:
    limit = limits(model_constants)[constant]
    assert complaint(tmp_path, "memory_budget.h", compiler=compiler, **{constant: limit}) == ""
    assert said in complaint(tmp_path, "memory_budget.h", compiler=compiler, **{constant: limit + step})


def test_the_buffers_that_the_contract_sets_aside_are_large_enough(tmp_path: Path, host_program) -> None:
    _, others, frame, _ = map(int, host_program("budget").split())
    in_use = others - frame
    assert complaint(tmp_path, "memory_budget.h", kBufferBytes=in_use) == ""
    assert "take more than kBufferBytes" in complaint(tmp_path, "memory_budget.h", kBufferBytes=in_use - 1)


def test_the_model_in_the_sketch_is_the_one_that_ships() -> None:
    assert read_c_array(SKETCH / "model_data.cpp") in [path.read_bytes() for path in WEIGHTS.glob("*.tflite")]


def test_golden_output_is_tflite_micro_s(model_constants: dict[str, float]) -> None:
    from tflite_micro.python.tflite_micro import runtime
    text = (SKETCH / "golden_vectors.cpp").read_text()
    golden = {name: np.array(codes.split(","), dtype=object)[:-1].astype(int).astype(np.int8) for name, codes in
              re.findall(r"kGolden(\w+)\[k\w+\] = \{([^}]*)\}", text)}
    interpreter = runtime.Interpreter.from_bytes(read_c_array(SKETCH / "model_data.cpp"), arena_size=1 << 20)
    interpreter.set_input(golden["Input"].reshape(interpreter.get_input_details(0)["shape"]), 0)
    interpreter.invoke()
    np.testing.assert_array_equal(interpreter.get_output(0).ravel(), golden["Output"])
    assert len(np.unique(golden["Output"])) > 20, "an output that says something"
