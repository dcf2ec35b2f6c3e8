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

from conversion.deploy import deployable
from conversion.parity import Stage, compare, first_diverging, layerwise, open_stage
from mirnet_torch.cli import UserError


def first_culprit(a: Stage, b: Stage, core: np.ndarray, atol: float) -> str:
    layers = layerwise(a, b, core[:1])
    layer = first_diverging(layers, atol=atol)
    return f"first diverging of {len(layers)} tensors: " + (f"{layer.a}: {layer.difference}" if layer else "none")


def test_deployable_form_is_exact_in_float64(chain):
    model = copy.deepcopy(chain.model).double()
    deployed = deployable(model, height=chain.deployed.height, width=chain.deployed.width)
    image = torch.from_numpy(chain.dark[:1].transpose(0, 3, 1, 2)).double()
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


def test_reference_kernels_equal_tflite_micro(mcu):
    difference = mcu.difference("int8@litert-reference", "int8@tflite-micro", raw=True)
    mcu.row("int8, reference kernels", "tflite-micro", f"{difference.differing} of {difference.size} bytes differ", "0")
    assert difference.differing == 0, f"{difference}; " + \
        first_culprit(mcu.stage("int8@litert-reference"), mcu.stage("int8@tflite-micro"), mcu.core, 0)


def test_tflite_micro_runs_the_bytes_of_an_array(mcu):
    """What a sketch compiles in is bytes, not a file."""
    content = bytes(bytearray(mcu.files.int8.read_bytes()))
    codes = open_stage(content, runtime="tflite-micro").run_raw(mcu.core)
    difference = compare(mcu.stage("int8@tflite-micro").run_raw(mcu.core), codes)
    mcu.row(".tflite", "bytes in tflite-micro", f"{difference.differing} of {difference.size} bytes differ", "0")
    assert difference.differing == 0, str(difference)


def test_what_reference_kernels_lack_is_named(chain):
    """Only residual upsampling needs it; tests/conversion/test_tflite.py compares that operator on its own."""
    if chain.deployed.config.resample == "plain":
        assert chain.stage("int8@litert-reference").integer
    else:
        with pytest.raises(UserError, match="DEPTH_TO_SPACE"):
            chain.stage("int8@litert-reference")
        chain.row("int8, reference kernels", "tflite-micro", "not run: reference kernels lack DEPTH_TO_SPACE", "")


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
    victim = "body.0.body.0.blocks.1.0.body.2"
    weight = broken.get_submodule(victim).weight
    weight.data[3, 2, 1, 1] += 0.5
    message = first_culprit(open_stage(broken), mcu.stage("ONNX"), mcu.core, 1e-4)
    assert f"{victim}/Conv: max" in message and ", 3), mean" in message
