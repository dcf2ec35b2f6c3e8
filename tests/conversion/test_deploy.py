"""Every rewrite alone and whole networks, in float64, against the modules they replace."""
from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import filled
from torch import Tensor, nn

from conversion import deploy
from conversion.deploy import deployable
from mirnet_torch.model import (DAU, MSRB, PRESETS, SKFF, ChannelAttention, MIRNet, MIRNetConfig, PeakChannelAttention,
                                ProjectedSpatialAttention, ResidualUp, SpatialAttention)

BAR = 1e-10
SMALL = dict(n_feat=8, n_RRG=1, n_MSRB=1)
LINEAR = dict(height=2, resample="plain", widths=(8, 20), tail_kernel=1)
CONFIGS = {
    "one stream": dict(height=1), "two streams": dict(height=2), "three streams": {}, "four streams": dict(height=4),
    "two streams, hard": dict(height=2, gate="hard_sigmoid"), "three streams, hard": dict(gate="hard_sigmoid"),
    "plain": dict(height=2, resample="plain", widths=(8, 20)), "relu": dict(activation="relu", height=2),
    "affine": dict(height=2, shuffle=4, head="affine"), "residual, shuffled": dict(height=2, shuffle=2),
    "grey, bias": dict(in_channels=1, out_channels=1, bias=True, height=2), "width 3": dict(width=3, height=2),
    "5x5": dict(kernel_size=5, spatial_kernel=7, height=2), "two groups": dict(n_RRG=2, n_MSRB=2, height=2),
    "linear tail": LINEAR, "linear tail, two blocks": dict(LINEAR, n_MSRB=2, bias=True),
    "linear tail, smooth": dict(LINEAR, kernel_size=1, bias=True),
    "linear to the end": dict(LINEAR, kernel_size=1, bias=True, gate="hard_sigmoid", head="affine", shuffle=5),
    "linear to the end, three columns": dict(LINEAR, kernel_size=1, bias=True, width=3, activation="relu"),
    "no attention, linear": dict(LINEAR, attention="none"), "no attention": dict(attention="none"),
    "no fusion, linear": dict(LINEAR, fusion="mean"), "no fusion": dict(height=3, fusion="mean"),
    "64 channels": dict(n_feat=64, height=1, gate="hard_sigmoid"),
    "exchange down": dict(width=1, exchange="down"), "no exchange": dict(width=1, exchange="none"),
    "exchange down, linear": dict(LINEAR, width=1, exchange="down", n_MSRB=2),
    "no exchange, linear": dict(LINEAR, width=1, exchange="none"),
    "peaks": dict(attention="peak"), "peaks, linear": dict(LINEAR, attention="peak", gate="hard_sigmoid"),
}


def noise(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape))


def randomised(module: nn.Module, std: float = 0.5) -> nn.Module:
    """Give a module random float64 weights, negative slopes and slopes above 1 among them."""
    torch.manual_seed(0)
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=std)
    return module.eval().requires_grad_(False)


def assert_equal(a: Tensor, b: Tensor) -> None:
    assert a.shape == b.shape
    assert float((a - b).abs().max()) <= BAR
    assert float(a.std()) > 1e-3  # something was compared


@pytest.mark.parametrize("slope", [0.25, 0.0, -0.5, 1.5])
def test_single_slope(slope):
    prelu = nn.PReLU(init=slope).double()
    assert_equal(prelu(noise(1, 8, 5, 6)), deploy.single_slope(prelu)(noise(1, 8, 5, 6)))


def test_prelu_with_a_slope_per_channel_is_refused():
    with pytest.raises(ValueError, match="one slope"):
        deploy.single_slope(nn.PReLU(8))


@pytest.mark.parametrize("channels", [3, 8, 24])
def test_channel_mean(channels):
    x = noise(1, channels, 5, 6)
    assert_equal(x.mean(1, keepdim=True), deploy.channel_mean(channels, x)(x))


def test_whole_map_mean():
    x = noise(1, 8, 5, 6)
    assert_equal(x.mean((2, 3), keepdim=True), deploy.whole_map_mean((5, 6))(x))


@pytest.mark.parametrize("bias", [False, True])
def test_split_inputs(bias):
    conv = randomised(nn.Conv2d(7, 5, 3, padding=1, bias=bias))
    a, b, c = noise(1, 7, 5, 6).split((2, 4, 1), 1)
    parts = deploy.split_inputs(conv, (2, 4, 1))
    assert_equal(conv(torch.cat([a, b, c], 1)), parts[0](a) + parts[1](b) + parts[2](c))


@pytest.mark.parametrize("gate", [nn.Sigmoid(), nn.Hardsigmoid()])
@pytest.mark.parametrize("bias", [False, True])
def test_gate_in_three_parts(gate, bias):
    """gate(conv(x)) * f through a convolution: the shift in the bias, the clamp, the factor in the next weights."""
    conv, after = randomised(nn.Conv2d(3, 4, 3, padding=1, bias=bias)), randomised(nn.Conv2d(4, 5, 1, bias=False))
    x, features = 4 * noise(1, 3, 9, 8), noise(1, 4, 9, 8)
    weight = deploy.clamp(gate)(deploy.shifted(conv, gate)(x))
    after_clamp = deploy.scaled(after, deploy.hard_sigmoid_scale(gate))
    assert_equal(after(gate(conv(x)) * features), after_clamp(weight * features))


@pytest.mark.parametrize("gate, kernel", [("sigmoid", 5), ("hard_sigmoid", 3)])
def test_attentions(gate, kernel):
    x = noise(1, 16, 7, 6)
    act = nn.Sigmoid() if gate == "sigmoid" else nn.Hardsigmoid()
    spatial, channel = randomised(SpatialAttention(kernel, act)), randomised(ChannelAttention(16, act))
    factor = deploy.hard_sigmoid_scale(act)
    assert_equal(spatial(x), deploy.DeployableSA(spatial, 16)(x) * factor)
    assert_equal(channel(x), deploy.DeployableCA(channel, (7, 6))(x) * factor)
    spatial, channel = randomised(ProjectedSpatialAttention(16, kernel, act)), randomised(PeakChannelAttention(16, act))
    assert_equal(spatial(x), deploy.DeployableProjectedSA(spatial)(x) * factor)
    assert_equal(channel(x), deploy.DeployableCA(channel, (7, 6))(x) * factor)


@pytest.mark.parametrize("channels, size", [(16, (7, 6)), (16, (23, 24))])
@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid"])
@pytest.mark.parametrize("activation", ["prelu", "relu"])
@pytest.mark.parametrize("attention", ["dual", "peak"])
def test_dau(channels, size, gate, activation, attention):
    config = MIRNetConfig(n_feat=channels, gate=gate, activation=activation, attention=attention)
    unit = DAU(channels, config, nn.PReLU() if activation == "prelu" else nn.ReLU())
    unit = randomised(unit, std=2 / channels)
    x = noise(1, channels, *size)
    rewritten = deploy.DeployableDAU(copy.deepcopy(unit), size)
    assert rewritten.joined == (size == (7, 6))
    assert_equal(unit(x), rewritten(x))


@pytest.mark.parametrize("streams", [1, 2, 3, 4])
@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid"])
def test_skff(streams, gate):
    fusion = randomised(SKFF(16, MIRNetConfig(n_feat=16, height=streams, gate=gate)))
    maps = list(noise(streams, 1, 16, 7, 6) * 3)
    assert_equal(fusion(maps), deploy.deployable_skff(fusion, (7, 6))(maps))


@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid"])
def test_two_stream_msrb(gate):
    """Also at odd sizes of the small stream, and with weights that differ from channel to channel."""
    config = MIRNetConfig(n_feat=8, height=2, widths=(8, 20), resample="plain", tail_kernel=1, bias=True, gate=gate)
    block = randomised(MSRB(config, nn.PReLU()), std=0.2)
    x = noise(1, 8, 6, 14)
    rewritten = deploy.TwoStreamMSRB(copy.deepcopy(block), (6, 14))
    x, own, other = rewritten(x)
    assert_equal(block(x), deploy.tail_of(block)(torch.cat([x, own, rewritten.enlarge(other)], 1)))
    assert_equal(block(x), deploy.TwoStreamTail(deploy.tail_of(block), rewritten.enlarge)((x, own, other)))


@pytest.mark.parametrize("bias", [False, True])
def test_product_of_two_convolutions(bias):
    first, second = randomised(nn.Conv2d(7, 5, 1, bias=bias)), randomised(nn.Conv2d(5, 6, 1))
    x = noise(1, 7, 4, 3)
    assert_equal(second(first(x)), deploy._product(second, first)(x))


def test_a_linear_tail_is_one_convolution_in_two_parts():
    config = MIRNetConfig(**{**SMALL, **CONFIGS["linear to the end"]})
    deployed = deployable(filled(MIRNet(config)), height=20, width=30)
    assert deployed.conv_out.near.in_channels == 2 * config.n_feat and deployed.conv_out.out_channels == 15
    parameters = dict(deployed.named_parameters())
    assert not [name for name in parameters if "tail" in name or "conv_out" in name and not name.startswith("conv_out")]
    assert any(name.startswith("body.0.body.0.blocks.0.") for name in parameters)  # as in the network


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 6)])
def test_transposed_convolution_in_phases(size):
    conv = randomised(nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, bias=False))
    x = noise(2, 6, *size)
    assert_equal(F.relu(conv(x)), deploy.PhaseConvolution(conv, nn.ReLU())(x))
    assert sum(p.numel() for p in deploy.PhaseConvolution(conv, nn.ReLU()).parameters()) == conv.weight.numel()


def test_another_transposed_convolution_is_refused():
    with pytest.raises(ValueError, match="kernel_size"):
        deploy.PhaseConvolution(nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1, bias=False), nn.ReLU())


@pytest.mark.parametrize("activation", ["prelu", "relu"])
def test_residual_up(activation):
    up = randomised(ResidualUp(16, 8, MIRNetConfig(n_feat=8, activation=activation)))
    x = noise(1, 16, 5, 3)
    assert_equal(up(x), deploy.deployable_up(copy.deepcopy(up))(x))


@pytest.mark.parametrize("name", CONFIGS)
def test_whole_network(name):
    model = filled(MIRNet(MIRNetConfig(**{**SMALL, **CONFIGS[name]}))).double()
    config = model.config
    height, width = 2 * config.multiple, 3 * config.multiple
    deployed = deployable(model, height=height, width=width)
    image = torch.from_numpy(np.random.default_rng(0).random((1, config.in_channels, height, width)))
    with torch.no_grad():
        core = deployed.core_input(image)
        maps = deployed(core)
        expected = model.maps(image)
        assert_equal(model(image), deployed.picture(image, maps))
    assert_equal(expected + (core if config.head == "residual" else 0), maps)
    assert deployed.core_shape == (*core.shape[2:], core.shape[1])
    assert deployed.maps_shape == (*maps.shape[2:], maps.shape[1])


@pytest.mark.parametrize("preset", PRESETS)
def test_presets(preset):
    """In float32, as they are converted; tests/parity has float64."""
    model = filled(MIRNet(MIRNetConfig.preset(preset)))
    height, width = (3 * model.config.multiple, 2 * model.config.multiple)
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    deployed = deployable(model, height=height, width=width)
    with torch.no_grad():
        core = deployed.core_input(image)
        expected = model.maps(image) + (core if model.config.head == "residual" else 0)
        assert float((expected - deployed(core)).abs().max()) <= 2e-5
    assert next(deployed.parameters()).dtype == torch.float32


def test_the_network_is_left_alone_and_sharing_kept():
    model = filled(MIRNet(MIRNetConfig(**SMALL)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    deployed = deployable(model, height=8, width=8)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert any(isinstance(module, nn.PReLU) for module in model.modules())
    blocks = deployed.body[0].body[0].blocks
    assert all(row[0] is row[1] for row in blocks)
    stored = {parameter.data_ptr() for parameter in deployed.parameters()}
    assert not stored & {parameter.data_ptr() for parameter in model.parameters() if parameter.requires_grad}


@pytest.mark.parametrize("height, width, name", [(6, 8, "height"), (8, 9, "width"), (0, 8, "height"), (8, -4, "width")])
def test_a_side_that_does_not_fit_is_refused(height, width, name):
    with pytest.raises(ValueError, match=f"^{name} must be a positive multiple of 4"):
        deployable(MIRNet(MIRNetConfig(**SMALL)), height=height, width=width)
