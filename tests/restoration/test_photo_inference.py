"""The forward pass of `photo` for use on a CPU: equal to the plain one, and the network stays as it was."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import data
from test_photo import SMALL, small_network

from mirnet_torch import enhance, load_model
from mirnet_torch.photo import PhotoConfig, PhotoMIRNet
from mirnet_torch.restoration import photo_inference


@pytest.mark.parametrize("detail, blocks", [((8, 12, 16), 1), ((8, 16), 3), ((8, 9, 10, 11), 2)])
@pytest.mark.parametrize("shape", [(2, 3, 17, 27), (1, 3, 1, 1), (1, 3, 80, 96)], ids=str)
def test_it_equals_the_plain_forward_pass(detail, blocks, shape):
    torch.manual_seed(0)
    model = PhotoMIRNet(PhotoConfig(detail=detail, n_MSRB=blocks))
    torch.nn.init.normal_(model.detail.conv_out.weight)
    image = torch.rand(shape) / 5
    kept = image.clone()
    assert photo_inference.suits(model)
    for dtype, tolerance in ((torch.float32, 2e-5), (torch.float64, 1e-12)):
        with torch.no_grad():
            plain = model.to(dtype)(image.to(dtype), exposure=0.5)
        restored = photo_inference.restore(model, image.to(dtype), exposure=0.5)
        torch.testing.assert_close(restored, plain, rtol=0, atol=tolerance)
        assert not restored.requires_grad
    assert torch.equal(image, kept)


@pytest.mark.parametrize("size", [(60, 101), (500, 700)], ids=str)
def test_levels_are_those_of_the_plain_forward_pass(monkeypatch, size):
    """The weights that ship, whole and in tiles: one level apart at most, and hardly anywhere."""
    model, dark = load_model("photo"), np.ascontiguousarray(np.tile(data.coffee(), (2, 2, 1))[:size[0], :size[1]]) // 4
    quick = enhance(model, dark)
    monkeypatch.setattr(photo_inference, "suits", lambda model: False)
    difference = quick.astype(int) - enhance(model, dark)
    assert np.abs(difference).max() <= 1 and (difference != 0).mean() < 1e-3


class Doubled(torch.nn.Conv2d):
    """What somebody may put into a network."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_changed_networks_run_by_their_own_forward_pass():
    model, dark = small_network(torch.float32), torch.rand(3, 20, 30) / 5
    expected = enhance(model, dark)
    seen = []
    handle = model.detail.conv_in.register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(enhance(model, dark), expected, rtol=0, atol=1e-5)
    assert seen and not photo_inference.suits(model)
    handle.remove()
    replaced = Doubled(SMALL.detail[0], 12, 3, padding=1)
    replaced.load_state_dict(model.detail.conv_out.state_dict())
    model.detail.conv_out = replaced
    assert not photo_inference.suits(model) and (enhance(model, dark) - expected).abs().max() > 0.01


def test_the_network_is_not_changed():
    model = small_network().train()
    rows = {name: row.clone() for name, row in model.state_dict().items()}
    photo_inference.restore(model, torch.rand(1, 3, 20, 30, dtype=torch.float64))
    assert model.training and all(torch.equal(row, rows[name]) for name, row in model.state_dict().items())
