"""The choice of ranges."""
from __future__ import annotations

import numpy as np
import pytest
from golden import filled

from conversion.bridge import calibrate
from conversion.bridge.calibrate import SHARES, activation_ranges, best_range
from conversion.bridge.onnx_export import export_onnx, load_onnx
from conversion.bridge.runtimes import open_stage
from conversion.mirnet.prepare import prepare
from mirnet_torch.model import MIRNet, MIRNetConfig


def test_well_behaved_values_keep_their_range():
    values = np.random.default_rng(0).uniform(-1, 3, (5, 4096)).astype(np.float32)
    low, high = best_range(values, -1, 3)
    assert low == pytest.approx(-1) and high == pytest.approx(3)


def test_an_odd_image_does_not_coarsen_the_steps_of_the_others():
    values = np.random.default_rng(0).standard_normal((20, 4096)).astype(np.float32)
    values[7] *= 10
    low, high = best_range(values, float(values.min()), float(values.max()))
    assert (low, high) == pytest.approx((SHARES[0] * values.min(), SHARES[0] * values.max()))  # as far as allowed


def test_the_range_holds_zero_and_what_is_always_zero_stays():
    values = np.random.default_rng(0).uniform(2, 3, (3, 100)).astype(np.float32)
    assert best_range(values, 2, 3)[0] == 0
    assert best_range(np.zeros((3, 100), np.float32), 0, 0) == (0, 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    config = MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=1, height=2, width=1)
    prepared = prepare(filled(MIRNet(config)), (12, 8))
    export_onnx(prepared.network, path, input_shape=prepared.input_shape, metadata={})
    return path


def test_every_tensor_gets_a_range_of_values_it_takes(model):
    images = np.random.default_rng(0).random((3, 8, 12, 3)).astype(np.float32)
    ranges = activation_ranges(load_onnx(model), images)
    seen = [open_stage(model).tensors(image[None]) for image in images]
    assert ranges.keys() == seen[0].keys()
    for name, (low, high) in ranges.items():
        values = np.concatenate([tensors[name] for tensors in seen])
        assert min(values.min(), 0) - 1e-5 <= low <= 0 <= high <= max(values.max(), 0) + 1e-5, name
        assert high - low >= 0.1 * (values.max() - values.min())


def test_parts_of_the_graph_give_the_same_ranges(model, monkeypatch):
    images = np.random.default_rng(0).random((2, 8, 12, 3)).astype(np.float32)
    whole = activation_ranges(load_onnx(model), images)
    monkeypatch.setattr(calibrate, "CHUNK_BYTES", 20_000)
    parts = activation_ranges(load_onnx(model), images)
    assert parts.keys() == whole.keys()
    assert all(np.allclose(parts[name], whole[name], rtol=1e-4) for name in whole)
