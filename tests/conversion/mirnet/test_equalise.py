"""Equalising: the same outputs in float64, from channels of equal range."""
from __future__ import annotations

import pytest
import torch
from golden import filled

from conversion.mirnet.equalise import LARGEST, equalised
from mirnet_torch import CompactConfig, MIRNetConfig, create_model
from mirnet_torch.model import DAU
from mirnet_torch.presets import Network

SMALL = dict(n_feat=8, n_RRG=1, n_MSRB=1)
CONFIGS = {
    "paper": MIRNetConfig(**SMALL), "four streams": MIRNetConfig(n_feat=8, n_RRG=1, height=4, n_MSRB=2),
    "two groups": MIRNetConfig(n_feat=8, n_RRG=2, n_MSRB=2, bias=True), "one stream": MIRNetConfig(**SMALL, height=1),
    "one column": MIRNetConfig(**SMALL, width=1), "three columns": MIRNetConfig(**SMALL, height=2, width=3),
    "compact": CompactConfig(), "compact, wide": CompactConfig(cell=4, widths=(8, 20)),
}


def network(config) -> Network:
    """A network whose every channel of every convolution has a size of its own."""
    model = filled(create_model(config)).double().eval()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 4:
            parameter.data *= torch.rand(len(parameter), 1, 1, 1, dtype=torch.float64) + 0.05
    return model


def spread(model: Network, images: torch.Tensor) -> float:
    """Return how far the channels after the first DAU's first convolution are below the largest: mean, in octaves."""
    unit = next(module for module in model.modules() if isinstance(module, DAU))
    seen = []
    handle = unit.body[1].register_forward_hook(lambda _, __, made: seen.append(made.abs().amax((0, 2, 3))))
    with torch.no_grad():
        model.core(model.to_core(images))
    handle.remove()
    live = seen[0][seen[0] > seen[0].max() / LARGEST]
    return float((live.max() / live).log2().mean())


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_changes_but_the_ranges(name):
    model = network(CONFIGS[name])
    before = {row: value.clone() for row, value in model.state_dict().items()}
    side = 2 * model.multiple
    images = torch.rand(3, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) ** 2
    balanced = equalised(model, images)
    assert all(torch.equal(value, before[row]) for row, value in model.state_dict().items())
    with torch.no_grad():
        expected = model(images)
        assert float((balanced(images) - expected).abs().max() / expected.abs().max()) < 1e-12
    assert balanced.config == model.config and balanced.state_dict().keys() == model.state_dict().keys()
    assert spread(balanced, images) < 0.3 < 0.6 < spread(model, images)  # octaves


def test_the_paper_s_spatial_attention_keeps_its_features():
    """It takes the maximum over channels: they must stay comparable."""
    model = network(CONFIGS["paper"])
    balanced = equalised(model, torch.rand(1, 3, 8, 8, dtype=torch.float64))
    for ours, theirs in zip(balanced.modules(), model.modules()):
        if isinstance(ours, DAU):
            assert torch.equal(ours.CA.conv_du[0].weight, theirs.CA.conv_du[0].weight)
