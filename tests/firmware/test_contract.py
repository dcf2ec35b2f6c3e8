"""One list of operators: what the sketch registers, what its model has, and what the bridge allows."""
from __future__ import annotations

import hashlib
import re

import numpy as np
from sketch_tools import SKETCH

from conversion.c_array import read_c_array
from conversion.graph import read_graph
from conversion.target import TARGETS, resolver_methods, violations
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
