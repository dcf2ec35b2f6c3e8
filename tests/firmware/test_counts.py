"""The command that counts instructions on an emulated Cortex-M4, what it makes models of, and what it fits.

Set MIRNET_TFLM_LIBRARY to the path of a clone of https://github.com/tensorflow/tflite-micro-arduino-examples to run the
whole of it; the library is compiled once, which takes minutes.
"""
from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import sketch_tools  # noqa: F401  (puts firmware/emulator on the path)
from commands import assert_one_error, run

from conversion.bridge.cost import coefficients, passes
from conversion.bridge.graph import read_graph

ROOT = Path(__file__).resolve().parents[2]
COUNTS = json.loads((ROOT / "tests" / "data" / "cortex_m4_counts.json").read_text())
(SHIPPED,) = COUNTS["shipped"].values()
ROWS = [row for part in ("fitted", "held out") for rows in COUNTS[part].values() for row in rows]


@pytest.fixture(scope="module")
def library() -> Path:
    path = os.environ.get("MIRNET_TFLM_LIBRARY")
    if not path:
        from cortex_m4 import GET_LIBRARY
        pytest.skip(f"MIRNET_TFLM_LIBRARY is not set: {GET_LIBRARY}, and name the clone by it")
    return Path(path)


def test_the_shipped_model_takes_the_recorded_instructions(library, capsys):
    """The whole command; its own check that the board computes tflite-micro's bytes included."""
    from counts import main

    result = run(capsys, main, "--library", library)
    assert result.status == 0, result.err
    assert "bytes equal to those of tflite-micro" in result.out
    line = next(line for line in result.out.splitlines() if line.startswith("all operators"))
    numbers = [int(part.replace(",", "")) for part in line.split()[2:]]
    calls, counted, predicted, sketch = numbers[0], numbers[1::3], numbers[2::3], numbers[3::3]
    assert calls == sum(row[4] for row in SHIPPED)
    for level, found, expected in zip(COUNTS["levels"], counted, predicted):
        index = 5 + COUNTS["levels"].index(level)
        assert found == pytest.approx(sum(row[index] for row in SHIPPED), rel=0.01)
        assert found == pytest.approx(expected, rel=0.02)
    assert sketch[0] < 0.65 * counted[0] and sketch[1] < 0.65 * counted[1]


def test_the_sketch_s_kernels_compute_the_library_s_bytes(library):
    """All kinds of operators that the sketch has kernels for: some are left to the library, at its cost."""
    from cortex_m4 import build, count
    from fit_cost import model_of, noise

    program = build(library, "Os")
    rows = [row[:4] for row in ROWS if row[0] in ("ADD", "CONV_2D", "MUL", "RESIZE_BILINEAR")]
    faster = 0
    for row in rows[::6]:
        model = model_of(row)
        inputs = noise(read_graph(model))
        theirs, ours = (count(program, model, inputs, sketch_kernels=sketch) for sketch in (False, True))
        assert theirs.outputs == ours.outputs, row
        assert ours.total < 1.1 * theirs.total + 1000, row
        faster += ours.total < 0.8 * theirs.total
    assert 0 < len(rows[::6]) / 2 < faster


def test_what_the_sketch_leaves_to_the_library(library):
    """Batches, dilation and corners that are aligned: the same bytes for the library's instructions."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema
    from cortex_m4 import build, count
    from fit_cost import noise
    from single_operators import single_operator

    def changed(model, **options):
        content = schema.ModelT.InitFromPackedBuf(model, 0)
        for name, value in options.items():
            setattr(content.subgraphs[0].operators[0].builtinOptions, name, value)
        builder = flatbuffers.Builder(1024)
        builder.Finish(content.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    weights = (8, 3, 3, 8)
    convolution = single_operator("CONV_2D", (1, 1), [(1, 8, 8, 8), weights], (1, 8, 8, 8))
    resize = single_operator("RESIZE_BILINEAR", (1, 1), [(1, 8, 8, 8), (2,)], (1, 16, 16, 8))
    program = build(library, "Os")
    for covered, model in (
            (True, convolution), (True, resize),
            (True, changed(convolution, fusedActivationFunction=schema.ActivationFunctionType.RELU6)),
            (False, single_operator("CONV_2D", (1, 1), [(2, 8, 8, 8), weights], (2, 8, 8, 8))),
            (False, changed(convolution, dilationHFactor=2, dilationWFactor=2)),
            (False, changed(resize, halfPixelCenters=False, alignCorners=True)),
            (False, changed(resize, halfPixelCenters=False)),
            (False, single_operator("RESIZE_BILINEAR", (1, 1), [(1, 8, 8, 8), (2,)], (1, 24, 24, 8))),
            (False, single_operator("ADD", (1, 1), [(1, 8, 8, 8), (1, 1, 1, 8)], (1, 8, 8, 8))),
            (False, single_operator("MUL", (1, 1), [(1, 8, 8, 8), (1, 8, 1, 8)], (1, 8, 8, 8)))):
        inputs = noise(read_graph(model))
        theirs, ours = (count(program, model, inputs, sketch_kernels=sketch) for sketch in (False, True))
        assert theirs.outputs == ours.outputs
        assert ours.total < 0.8 * theirs.total if covered else 0 < ours.total - theirs.total < 1000


def test_an_operator_alone_takes_the_recorded_instructions(library):
    """Counting is exact: the same program, model and input give the same number."""
    from cortex_m4 import build, count
    from fit_cost import model_of, noise

    program = build(library, "Os")
    for kind in {row[0]: row for row in ROWS}.values():
        model = model_of(kind[:4])
        counted = count(program, model, noise(read_graph(model)))
        assert [name for name, _ in counted.operators] == [kind[0]]
        assert kind[4] * counted.total == pytest.approx(kind[5], rel=0.02)
        assert counted.total < counted.invoke < counted.total + 1000


def test_a_model_that_the_library_refuses(library, capsys, tmp_path):
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema
    from counts import main
    from single_operators import single_operator

    content = schema.ModelT.InitFromPackedBuf(single_operator("RELU", (1, 1), [(1, 4, 4, 8)], (1, 4, 4, 8)), 0)
    content.operatorCodes[0].builtinCode = content.operatorCodes[0].deprecatedBuiltinCode = schema.BuiltinOperator.EXP
    builder = flatbuffers.Builder(1024)
    builder.Finish(content.Pack(builder), b"TFL3")
    model = tmp_path / "exp.tflite"
    model.write_bytes(builder.Output())
    result = run(capsys, main, "--library", library, "--model", model)
    assert_one_error(result.status, result.err, "the library refuses it", "'EXP'")


@pytest.mark.parametrize("arguments, words", [
    ((), ("--library is missing", "git clone")),
    (("--library", "nowhere"), ("nowhere is not a clone of the Arduino library", "git clone")),
    (("--library", "here", "--model", "nothing.tflite"), ("cannot read nothing.tflite",)),
    (("--library", "here", "--model", "text.tflite"), ("text.tflite is not a .tflite file",)),
    (("--library", "here", "--model", "text.tflite", "--record"), ("leave --model out",)),
    (("--library", "here", "--model", "text.tflite", "--fit"), ("leave --model out",)),
    (("--library", "here", "--archive", "--record"), ("leave --archive out",)),
])
def test_bad_input_is_one_line(arguments, words, capsys, tmp_path, monkeypatch):
    from counts import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.tflite").write_text("this is no model at all\n")
    result = run(capsys, main, *arguments)
    assert result.status == 2
    assert_one_error(result.status, result.err, *words)


def test_a_compiler_that_is_missing_or_refuses(capsys, tmp_path, monkeypatch):
    import cortex_m4
    from counts import main

    source = tmp_path / "clone" / "src" / "tensorflow" / "lite" / "micro" / "micro_interpreter.cpp"
    source.parent.mkdir(parents=True)
    source.write_text("this is no C++\n")
    monkeypatch.setattr(cortex_m4, "BUILD", tmp_path)
    sketch_tools.need("arm-none-eabi-g++")
    result = run(capsys, main, "--library", tmp_path / "clone")
    assert_one_error(result.status, result.err, "does not compile: ")
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run(capsys, main, "--library", tmp_path / "clone")
    assert_one_error(result.status, result.err, "arm-none-eabi-gcc is not installed: apt install gcc-arm-none-eabi")


def test_models_of_one_operator_hold_what_their_rows_say():
    from fit_cost import model_of, operator_of, signature

    for row in ROWS:
        graph = read_graph(model_of(row[:4]))
        (operator,) = graph.operators
        assert signature(operator) == row[:4]
        assert passes(operator_of(row[:4]))[0] in coefficients()["Os"]


@pytest.mark.parametrize("kind", sorted({row[0] for row in ROWS}))
def test_models_of_one_operator_run_in_tflite_micro(kind):
    from fit_cost import model_of, noise
    from tflite_micro import runtime

    row = max((row for row in ROWS if row[0] == kind), key=lambda row: np.prod(row[3]))
    model = model_of(row[:4])
    inputs = np.frombuffer(noise(read_graph(model)), np.int8)
    interpreter = runtime.Interpreter.from_bytes(model, arena_size=4 << 20)
    for i, tensor in enumerate(read_graph(model).inputs):
        values, inputs = inputs[:tensor.nbytes], inputs[tensor.nbytes:]
        interpreter.set_input(values.reshape(tensor.shape), i)
    interpreter.invoke()
    output = interpreter.get_output(0)
    assert list(output.shape) == row[3]
    assert len(np.unique(output)) > 5 and np.mean((output == -128) | (output == 127)) < 0.6  # half of noise for RELU


def test_the_fit_finds_the_coefficients_that_made_the_counts():
    from fit_cost import fit, operator_of

    rows = [row[:4] for row in COUNTS["fitted"]["crafted, one operator at a time"] if row[0] in ("ADD", "MAX_POOL_2D")]
    made = {kernel: [100.0 + 7 * i for i, _ in enumerate(values)] for kernel, values in coefficients()["Os"].items()}
    counted = []
    for signature in rows:
        kernel, numbers = passes(operator_of(signature))
        counted.append((signature, round(sum(a * b for a, b in zip(made[kernel], numbers)))))
    for kernel, values in fit(counted).items():
        assert values == pytest.approx(made[kernel], rel=0.01), kernel


@pytest.mark.parametrize("level", COUNTS["levels"])
def test_the_coefficients_are_those_fitted_to_the_counts(level):
    from fit_cost import fit

    index = 5 + COUNTS["levels"].index(level)
    rows = {json.dumps(row[:4]): row[index] / row[4] for rows in COUNTS["fitted"].values() for row in rows}
    fitted = fit((json.loads(key), counted) for key, counted in rows.items())
    assert fitted.keys() == coefficients()[level].keys()
    for kernel, values in fitted.items():
        assert values == pytest.approx(coefficients()[level][kernel], rel=1e-3, abs=1e-3), kernel
