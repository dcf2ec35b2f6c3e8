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

from conversion.c_array import model_array, read_c_array
from conversion.deploy import deployable
from conversion.equalise import equalised
from conversion.graph import read_graph
from conversion.parity import Stage, compare, first_diverging, layerwise, open_stage
from conversion.target import find_target

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


def test_deployable_form_is_exact_in_float64(chain):
    model = copy.deepcopy(chain.model).double()
    image = torch.from_numpy(chain.dark[:1].transpose(0, 3, 1, 2)).double()
    deployed = deployable(equalised(model, image), height=chain.deployed.height, width=chain.deployed.width)
    with torch.no_grad():
        core = deployed.core_input(image)
        expected = model.maps(image) + (core if model.config.head == "residual" else 0)
        difference = compare(expected.numpy(), deployed(core).numpy())
    chain.row("PyTorch", "deployable (float64)", f"max {difference.max:.2g}", "<= 1e-10")
    assert difference.max <= 1e-10, str(difference)


@pytest.mark.parametrize("a, b, bar", [("PyTorch", "deployable", 2e-5), ("deployable", "ONNX", 1e-5),
                                       ("ONNX", "float32", 1e-4)])
def test_float_stages(chain, a, b, bar):
    difference = chain.difference(a, b)
    chain.row(a, b, f"max {difference.max:.2g}, SQNR {difference.sqnr_db:.0f} dB", f"<= {bar:g}")
    assert difference.max <= bar, f"{a} -> {b}: {difference}; " + \
        first_culprit(chain.stage(a), chain.stage(b), chain.core, bar)


def test_float16(chain):
    difference = chain.difference("float32", "float16")
    chain.row("float32", "float16", f"max {difference.max:.2g}, SQNR {difference.sqnr_db:.0f} dB", ">= 40 dB")
    assert difference.sqnr_db >= 40, str(difference)


def test_int8(chain):
    difference, step = chain.difference("float32", "int8"), chain.stage("int8").scale
    steps = difference.mean / step
    bar = "<= 1.0" if chain.name == "mcu" else "none: weights untrained"
    chain.row("float32", "int8", f"mean {steps:.2f} steps of {step:.3g}, SQNR {difference.sqnr_db:.1f} dB", bar)
    if chain.name == "mcu":
        assert steps <= 1.0, f"{difference}, in steps of {step:.3g}"
    else:
        assert difference.sqnr_db > 3, str(difference)  # the picture is there


def test_reference_kernels_equal_tflite_micro(chain):
    """`paper` has LOGISTIC, which the reference kernels look up in a table: one code in 30,000 may differ by one."""
    difference = chain.difference("int8@litert-reference", "int8@tflite-micro", raw=True)
    figures = f"{difference.differing} of {difference.size} bytes differ"
    chain.row("int8, reference kernels", "tflite-micro", figures, "0" if chain.name == "mcu" else "mean <= 0.1 steps")
    assert difference.mean <= (0 if chain.name == "mcu" else 0.1), f"{difference}; " + \
        first_culprit(chain.stage("int8@litert-reference"), chain.stage("int8@tflite-micro"), chain.core, 0)


def test_tflite_micro_runs_the_c_array(chain, tmp_path):
    """What a sketch compiles in is text. Nobody compiles `paper` into one, its array is that of `mcu` in large."""
    (tmp_path / "model_data.cpp").write_text(model_array(chain.files.int8.read_bytes()))
    codes = open_stage(read_c_array(tmp_path / "model_data.cpp"), runtime="tflite-micro").run_raw(chain.core)
    difference = compare(chain.stage("int8@tflite-micro").run_raw(chain.core), codes)
    chain.row(".tflite", "C array in tflite-micro", f"{difference.differing} of {difference.size} bytes differ", "0")
    assert difference.differing == 0, str(difference)


def test_operators(chain):
    assert read_graph(chain.files.float32).counts() == OPERATORS[chain.name]
    assert read_graph(chain.files.int8).counts() == OPERATORS[chain.name]


def test_the_int8_file_is_little_more_than_its_weights(chain):
    parameters = sum(parameter.numel() for parameter in chain.model.parameters())
    size, limit = chain.files.int8.stat().st_size, find_target(None, chain.model.config).flash_limit or 34_000_000
    chain.row(f"{parameters:,} parameters", "int8 file", f"{size:,} bytes", f"<= {limit:,}")
    assert size <= limit


def test_layers_correspond_through_the_chain(chain):
    """Every tensor that TFLite computes has the name of an ONNX tensor, and its values."""
    layers = layerwise(chain.stage("ONNX"), chain.stage("float32"), chain.core[:1])
    computed = {tensor.name for tensor in chain.stage("float32")._computed()}
    assert computed == {layer.b for layer in layers}
    assert all(layer.difference.max <= 1e-4 for layer in layers)
    modules = dict(chain.deployed.named_modules(remove_duplicate=False))
    assert all(layer.module in modules for layer in layers)


def test_a_diverging_tensor_is_named(mcu):
    """One weight changed in the deployable form: the comparison points at the convolution that has it."""
    broken = copy.deepcopy(mcu.deployed)
    victim, conv = [(name, module) for name, module in broken.named_modules() if isinstance(module, torch.nn.Conv2d)
                    and module.kernel_size == (3, 3) and module.out_channels > 3][-1]
    conv.weight.data[3, 2, 1, 1] += 0.5
    message = first_culprit(open_stage(broken), mcu.stage("ONNX"), mcu.core, 1e-4)
    assert f"{victim}/Conv: max" in message and ", 3), mean" in message
