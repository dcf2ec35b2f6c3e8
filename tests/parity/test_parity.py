"""The whole chain, PyTorch to microcontroller, on photographs: every stage against the one before.

    python -m pytest tests/parity

prints the table with today's figures; a failed comparison says which tensor, where, and by how much. Weights are the
deterministic ones of tests/golden.py: equality of stages does not depend on training.
"""
from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from conversion.bridge.c_array import model_array, read_c_array
from conversion.bridge.chain import TOLERANCES, Tolerance
from conversion.bridge.difference import compare, first_diverging, layerwise
from conversion.bridge.graph import read_graph
from conversion.bridge.runtimes import Stage, open_stage
from conversion.mirnet.prepare import nchw, prepare
from conversion.mirnet.sketch import SKETCH

# Of the float32 and of the int8 file: nothing is converted from one to the other on the way.
OPERATORS = {
    "mcu": {"ADD": 5, "AVERAGE_POOL_2D": 4, "CONCATENATION": 4, "CONV_2D": 21, "MAX_POOL_2D": 2, "MUL": 8,
            "RESIZE_BILINEAR": 1},
    "paper": {"ADD": 280, "AVERAGE_POOL_2D": 108, "CONCATENATION": 42, "CONV_2D": 821, "DEPTHWISE_CONV_2D": 42,
              "DEPTH_TO_SPACE": 42, "LEAKY_RELU": 318, "LOGISTIC": 72, "MIRROR_PAD": 42, "MUL": 144, "REDUCE_MAX": 36,
              "RESIZE_BILINEAR": 42, "SOFTMAX": 24, "TRANSPOSE_CONV": 24},
}


def first_culprit(a: Stage, b: Stage, core: np.ndarray, atol: float) -> str:
    try:
        layers = layerwise(a, b, core[:1])
    except NotImplementedError as error:
        return str(error)
    layer = first_diverging(layers, atol=atol)
    return f"first diverging of {len(layers)} tensors: " + (f"{layer.a}: {layer.difference}" if layer else "none")


def culprit(chain, row) -> str:
    """Say where a stage that is not within its tolerance parts from the one before."""
    return f"{row.before} -> {row.stage}: {row.change}; " + first_culprit(
        chain.stage(row.before), chain.stage(row.stage), chain.core, row.tolerance.limit if row.tolerance else 0)


def test_deployable_form_is_exact_in_float64(chain):
    model = copy.deepcopy(chain.prepared.model).double()
    exact = prepare(model, chain.prepared.size, chain.dark[:1]).network
    with torch.no_grad():
        core = model.to_core(nchw(chain.dark[:1]).double())
        difference = compare(model.core(core).numpy(), exact(core).numpy())
    chain.report("deployable form", f"max {difference.max:.2g} in float64", tolerance=Tolerance("max", 1e-10))
    assert difference.max <= 1e-10, str(difference)


def test_the_tolerances_are_these():
    """One table for the parity suite and every conversion; a change of a tolerance must change this test too."""
    assert {name: str(tolerance) for name, tolerance in TOLERANCES.items()} == {
        "deployable form": "max <= 2e-05", "ONNX": "max <= 1e-05", "ONNX, any size": "max <= 3e-05",
        "TFLite float32": "max <= 0.0001", "TFLite float16": "SQNR >= 40 dB", "TFLite int8": "mean <= 2 steps",
        "TFLite int8, partly": "mean <= 2 steps", "int8, tflite-micro": "0 differing bytes",
        "C array, tflite-micro": "0 differing bytes"}


@pytest.mark.parametrize("name", ["deployable form", "ONNX", "TFLite float32", "TFLite float16"])
def test_float_stages(chain, name):
    row = chain.rows[name]
    chain.report(name, f"max {row.change.max:.2g}, SQNR {row.change.sqnr_db:.0f} dB")
    assert row.tolerance == TOLERANCES[name] and row.passed, culprit(chain, row)


def test_int8(chain):
    row = chain.rows["TFLite int8"]
    note = "" if chain.name == "mcu" else "none: weights untrained"
    chain.report("TFLite int8", f"mean {row.change.mean / row.step:.2f} steps of {row.step:.3g}, SQNR "
                                f"{row.change.sqnr_db:.1f} dB", note=note)
    if chain.name == "mcu":
        assert row.passed, f"{row.change}, in steps of {row.step:.3g}"
    else:
        assert row.change.sqnr_db > 3, str(row.change)  # the picture is there


def test_reference_kernels_equal_tflite_micro(chain):
    """`paper` has LOGISTIC, which the reference kernels look up in a table: one code in 30,000 may differ by one."""
    row = chain.rows["int8, tflite-micro"]
    assert row.before == "int8, reference kernels" and row.in_steps
    chain.report("int8, tflite-micro", f"{row.change.differing} of {row.change.size} bytes differ",
                 note="" if chain.name == "mcu" else "mean <= 0.1 steps")
    assert row.change.mean <= (0 if chain.name == "mcu" else 0.1), culprit(chain, row)
    assert row.passed is (True if chain.name == "mcu" else None)


def test_tflite_micro_runs_the_c_array(chain, tmp_path):
    """A sketch compiles the text of the array. `paper` is too large for a sketch, and its array has the same form."""
    (tmp_path / "model_data.cpp").write_text(model_array(chain.artefacts.int8.read_bytes()))
    codes = open_stage(read_c_array(tmp_path / "model_data.cpp"), runtime="tflite-micro").run_raw(chain.core)
    difference = compare(chain.stage("int8, tflite-micro").run_raw(chain.core), codes)
    chain.report("int8, tflite-micro", f"its C array: {difference.differing} of {difference.size} bytes differ",
                 tolerance=TOLERANCES["C array, tflite-micro"])
    assert difference.differing == 0, str(difference)
    assert chain.name == "paper" or chain.rows["C array, tflite-micro"].passed


def test_operators(chain):
    assert read_graph(chain.artefacts.float32).counts() == OPERATORS[chain.name]
    assert read_graph(chain.artefacts.int8).counts() == OPERATORS[chain.name]


def test_the_int8_file_is_little_more_than_its_weights(chain):
    size = chain.artefacts.int8.stat().st_size
    limit = SKETCH.flash_limit if chain.name == "mcu" else 34_000_000
    chain.report("TFLite int8", f"{size:,} bytes", note=f"<= {limit:,}")
    assert size <= limit


def test_layers_correspond_through_the_chain(chain):
    """Every tensor that TFLite computes has the name of an ONNX tensor, and its values."""
    layers = layerwise(chain.stage("ONNX"), chain.stage("TFLite float32"), chain.core[:1])
    computed = {tensor.name for tensor in chain.stage("TFLite float32")._computed()}
    assert computed == {layer.b for layer in layers}
    assert all(layer.difference.max <= 1e-4 for layer in layers)
    modules = dict(chain.prepared.network.named_modules(remove_duplicate=False))
    assert all(layer.module in modules for layer in layers)


def test_a_diverging_tensor_is_named(mcu):
    """One weight changed in the deployable form: the comparison points at the convolution that has it."""
    broken = copy.deepcopy(mcu.prepared.network)
    victim, conv = [(name, module) for name, module in broken.named_modules() if isinstance(module, torch.nn.Conv2d)
                    and module.kernel_size == (3, 3) and module.out_channels > 3][-1]
    conv.weight.data[3, 2, 1, 1] += 0.5
    stage = open_stage(broken, input_shape=mcu.prepared.input_shape)
    message = first_culprit(stage, mcu.stage("ONNX"), mcu.core, 1e-4)
    assert f"{victim}/Conv: max" in message and ", 3), mean" in message
