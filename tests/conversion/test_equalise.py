"""Equalising: the same outputs in float64, from channels of equal range."""
from __future__ import annotations

import pytest
import torch
from golden import filled

from conversion.equalise import LARGEST, equalised
from mirnet_torch.model import DAU, MIRNet, MIRNetConfig

SMALL = dict(n_feat=8, n_RRG=1, n_MSRB=1)
PLAIN = dict(height=2, resample="plain", widths=(8, 20), tail_kernel=1, attention="peak")
CONFIGS = {
    "paper": {}, "four streams": dict(height=4, n_MSRB=2), "two groups": dict(n_RRG=2, n_MSRB=2, bias=True),
    "one stream": dict(height=1), "plain": dict(PLAIN, gate="hard_sigmoid", head="affine", shuffle=5, bias=True),
    "plain, two blocks": dict(PLAIN, n_MSRB=2, width=3),
    "exchange down": dict(width=1, exchange="down"), "no exchange": dict(PLAIN, width=1, exchange="none", bias=True),
    "no attention, no fusion": dict(attention="none", fusion="mean"),
}


def network(**config) -> MIRNet:
    """A network with weights as uneven as can be: every channel of every convolution has a size of its own."""
    model = filled(MIRNet(MIRNetConfig(**{**SMALL, **config}))).double().eval()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 4:
            parameter.data *= torch.rand(len(parameter), 1, 1, 1, dtype=torch.float64) + 0.05
    return model


def spread(model: MIRNet, images: torch.Tensor) -> float:
    """How much smaller than the largest the channels behind the first DAU's first convolution are, in the mean."""
    unit = next(module for module in model.modules() if isinstance(module, DAU))
    seen = []
    handle = unit.body[1].register_forward_hook(lambda _, __, made: seen.append(made.abs().amax((0, 2, 3))))
    with torch.no_grad():
        model.maps(images)
    handle.remove()
    live = seen[0][seen[0] > seen[0].max() / LARGEST]
    return float((live.max() / live).log2().mean())


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_changes_but_the_ranges(name):
    model = network(**CONFIGS[name])
    before = {row: value.clone() for row, value in model.state_dict().items()}
    side = 2 * model.config.multiple
    images = torch.rand(3, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    even = equalised(model, images)
    assert all(torch.equal(value, before[row]) for row, value in model.state_dict().items())
    with torch.no_grad():
        expected = model(images)
        assert float((even(images) - expected).abs().max() / expected.abs().max()) < 1e-12
    assert even.config == model.config and even.state_dict().keys() == model.state_dict().keys()
    assert spread(even, images) < 0.3 < 0.6 < spread(model, images)  # octaves


def test_the_paper_s_spatial_attention_keeps_its_features():
    """It takes the maximum over channels: they must stay comparable."""
    model = network()
    even = equalised(model, torch.rand(1, 3, 8, 8, dtype=torch.float64))
    for ours, theirs in zip(even.modules(), model.modules()):
        if isinstance(ours, DAU):
            assert torch.equal(ours.CA.conv_du[0].weight, theirs.CA.conv_du[0].weight)
