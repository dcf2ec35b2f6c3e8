"""The chain of `photo` on photographs, from picture to picture. In int8 the network that removes noise is integer."""
from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from golden import filled
from parity_table import TABLE

from conversion.bridge.chain import TOLERANCES, compare_stages, stages
from conversion.bridge.graph import is_within, module_of, read_graph
from conversion.bridge.target import TARGETS, violations
from conversion.frames import calibration_frames, paired_frames
from conversion.mirnet.any_size import export_any_size
from conversion.mirnet.photo import QUANTISED
from conversion.mirnet.prepare import prepare
from conversion.pipeline import bridge_convert, compare_sizes
from mirnet_torch import enhance
from mirnet_torch.measures.metrics import psnr
from mirnet_torch.photo import PhotoConfig, PhotoMIRNet
from mirnet_torch.restoration.converted import load_converted

SIZE = (80, 40)
ROWS = ["PyTorch", "deployable form", "ONNX", "TFLite float32", "TFLite float16", "TFLite int8, partly"]


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photo")
    model = filled(PhotoMIRNet(PhotoConfig(detail=(8, 12, 16), n_MSRB=1))).requires_grad_(False)
    calibration = calibration_frames(None, size=SIZE, channels=3).pick(6)
    pictures = paired_frames(None, size=SIZE, channels=3)
    prepared = prepare(model, SIZE, calibration.dark.astype(np.float32) / 255)
    artefacts = bridge_convert(prepared, calibration, folder, target="litert", name="photo")
    export_any_size(prepared.equalised, folder / "photo_any_size.onnx", metadata={})
    links = stages(prepared.network, prepared.input_shape, artefacts, original=prepared.original, partly=True)
    rows = compare_stages(links, pictures.dark.astype(np.float32) / 255)
    return model, prepared, artefacts, pictures, rows, compare_sizes(prepared, folder / "photo_any_size.onnx", pictures)


def test_every_stage_is_within_its_tolerance(photo):
    *_, rows, any_size = photo
    assert [row.stage for row in rows] == ROWS
    for row in (*rows[1:], any_size):
        figures = f"max {row.change.max:.2g}, mean {row.change.mean:.2g}, SQNR {row.change.sqnr_db:.0f} dB"
        TABLE.append(("photo", f"{row.before} -> {row.stage}", figures, str(row.tolerance)))
        assert row.tolerance == TOLERANCES[row.stage] and row.passed, f"{row.stage}: {row.change}"


def test_the_deployable_form_is_exact_in_float64(photo):
    model, _, _, pictures, *_ = photo
    exact = copy.deepcopy(model).double()
    image = torch.from_numpy(pictures.dark[:1].transpose(0, 3, 1, 2)).double() / 255
    difference = prepare(exact, SIZE).network(image) - exact(image).clamp(0, 1)
    assert float(difference.abs().max()) <= 1e-10


def test_only_the_detail_network_is_integer(photo):
    _, _, artefacts, *_ = photo
    graph = read_graph(artefacts.int8)
    assert graph.inputs[0].dtype == graph.outputs[0].dtype == "float32"
    assert graph.counts()["QUANTIZE"] == 2 and graph.counts()["DEQUANTIZE"] == 1
    assert violations(graph, TARGETS["litert"], quantised=QUANTISED) == []
    assert violations(graph, TARGETS["litert"])  # the whole is not integer
    for operator in graph.operators:
        if operator.name not in ("QUANTIZE", "DEQUANTIZE"):
            (result,) = operator.outputs
            assert (result.dtype == "int8") == is_within(result.name, QUANTISED), f"{operator.name} {result}"
    convolutions = [operator for operator in graph.operators if operator.name == "CONV_2D"]
    assert {module_of(operator.outputs[0].name).partition(".")[0] for operator in convolutions} == {
        "colour", "factors", "recolour", "detail"}


@pytest.mark.parametrize("kind, least", [("float32", 70), ("float16", 55), ("int8", 40)])
def test_the_command_s_runtime_makes_the_same_pictures(photo, kind, least):
    """In dB against PyTorch, of 8-bit pictures."""
    model, _, artefacts, pictures, *_ = photo
    restore = load_converted(getattr(artefacts, kind))
    for dark in pictures.dark:
        assert psnr(restore(dark), enhance(model, dark)) >= least
