"""The published network's forward pass for use: equal to the plain one, and the network stays as it was."""
from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from golden import filled, golden
from torch import nn

from mirnet_torch import CompactConfig, MIRNet, MIRNetConfig, create_model, enhance
from mirnet_torch.restoration import inference

TINY = MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=1)
CONFIGURATIONS = [
    {}, {"height": 2}, {"width": 3}, {"width": 1}, {"height": 4}, {"height": 1}, {"n_RRG": 2, "n_MSRB": 2},
    {"in_channels": 1, "out_channels": 1, "bias": True}, {"kernel_size": 5, "n_feat": 12, "bias": True}]


@pytest.mark.parametrize("name", ["small_32x48", "paper_64x64"])
def test_golden_outputs(name):
    model, arrays = golden(name)
    output = inference.restore(model, torch.from_numpy(arrays["input"]))
    assert np.abs(output.numpy() - arrays["output"]).max() <= 3e-5
    if name != "paper_64x64":  # the plain forward pass is compared in float64 there, and this one with it below
        output = inference.restore(model.double(), torch.from_numpy(arrays["input"]).double())
        assert np.abs(output.numpy() - arrays["output_float64"]).max() <= 1e-9


@pytest.mark.parametrize("changes", CONFIGURATIONS, ids=str)
@pytest.mark.parametrize("shape", [(2, 17, 27), (1, 1, 1), (1, 32, 40)], ids=str)
def test_it_equals_the_plain_forward_pass(changes, shape):
    model = filled(MIRNet(replace(TINY, **changes)))
    image = torch.rand(shape[0], model.config.in_channels, *shape[1:])
    kept = image.clone()
    with torch.inference_mode():
        for dtype, tolerance in ((torch.float32, 3e-5), (torch.float64, 1e-12)):
            plain = model.to(dtype)(image.to(dtype))
            torch.testing.assert_close(inference.restore(model, image.to(dtype)), plain, rtol=0, atol=tolerance)
    assert torch.equal(image, kept)


@pytest.mark.parametrize("strip", [1, 700, 2 ** 30])
def test_strips_of_any_height_change_nothing_but_rounding(monkeypatch, strip):
    monkeypatch.setattr(inference, "STRIP_UNIT", strip)
    monkeypatch.setattr(inference, "STRIP_UP", strip)
    model = filled(MIRNet(TINY)).double()
    image = torch.rand(2, 3, 24, 20, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(inference.restore(model, image), model(image), rtol=0, atol=1e-12)


def test_with_the_means_of_the_whole_a_part_is_as_in_the_whole():
    """Far from the part's edges nothing but the means tells it from the whole."""
    model = filled(MIRNet(replace(TINY, height=2))).double()
    image = torch.rand(2, 3, 24, 128, dtype=torch.float64) * torch.linspace(0.1, 1, 128)
    means, whole = inference.means_of(model, image), inference.restore(model, image)
    part = (..., slice(32, 40))  # 48 pixels from the right edge of the left 88
    torch.testing.assert_close(inference.restore(model, image[..., :88], means)[part], whole[part], rtol=0, atol=1e-12)
    assert (inference.restore(model, image[..., :88])[part] - whole[part]).abs().max() > 1e-4


def test_the_network_is_not_changed():
    model = filled(MIRNet(TINY)).train()
    rows = copy.deepcopy(model.state_dict())
    strides = [row.stride() for row in model.state_dict().values()]
    image = torch.rand(1, 3, 16, 16)
    output = inference.restore(model, image)
    assert model.training and not output.requires_grad
    assert all(torch.equal(row, rows[name]) for name, row in model.state_dict().items())
    assert [row.stride() for row in model.state_dict().values()] == strides
    model(image).sum().backward()  # it can still be trained


def test_new_weights_count_at_once():
    """Nothing is remembered from an earlier call."""
    model = filled(MIRNet(TINY))
    image = torch.rand(1, 3, 16, 16)
    first = inference.restore(model, image)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
        torch.testing.assert_close(inference.restore(model, image), model(image), rtol=0, atol=3e-5)
    assert not torch.allclose(inference.restore(model, image), first, atol=1e-3)


class Doubled(nn.Conv2d):
    """What somebody may put into a network."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_changed_networks_run_by_their_own_forward_pass():
    image = torch.rand(3, 16, 16) / 4
    plain = filled(MIRNet(TINY))
    expected = enhance(plain, image)
    assert inference.suits(plain) and not inference.suits(create_model(CompactConfig()))

    hooked, seen = copy.deepcopy(plain), []
    handle = hooked.body[0].body[0].blocks[1][0].conv1x1.register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(enhance(hooked, image), expected, rtol=0, atol=3e-5)
    assert not inference.suits(hooked) and len(seen) == 2  # once in each column
    handle.remove()
    assert inference.suits(hooked)

    replaced = copy.deepcopy(plain)
    replaced.conv_out = Doubled(8, 3, 3, padding=1, bias=False)
    replaced.conv_out.weight = plain.conv_out.weight
    assert not inference.suits(replaced)
    assert (enhance(replaced, image) - expected).abs().max() > 0.01
