"""Every rewrite alone and whole networks, in float64, against the modules they replace."""
from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import filled
from torch import Tensor, nn

from conversion.mirnet import blocks, compact, identities, published
from conversion.mirnet.prepare import nchw, picture_multiple, prepare
from mirnet_torch import PRESETS, CompactConfig, CompactMIRNet, MIRNet, MIRNetConfig, create_model
from mirnet_torch.cli import UserError
from mirnet_torch.compact import CompactMSRB, HardSKFF, PeakChannelAttention, ProjectedSpatialAttention
from mirnet_torch.model import DAU, SKFF, ChannelAttention, ResidualUp, SpatialAttention

TOLERANCE = 1e-10
SMALL = dict(n_feat=8, n_RRG=1, n_MSRB=1)
CONFIGS = {
    "one stream": MIRNetConfig(**SMALL, height=1), "two streams": MIRNetConfig(**SMALL, height=2),
    "three streams": MIRNetConfig(**SMALL), "four streams": MIRNetConfig(**SMALL, height=4),
    "grey, bias": MIRNetConfig(**SMALL, in_channels=1, out_channels=1, bias=True, height=2),
    "width 3": MIRNetConfig(**SMALL, width=3, height=2), "one column": MIRNetConfig(**SMALL, width=1),
    "5x5": MIRNetConfig(**SMALL, kernel_size=5, height=2),
    "two groups": MIRNetConfig(n_feat=8, n_RRG=2, n_MSRB=2, height=2),
    "64 channels": MIRNetConfig(n_RRG=1, n_MSRB=1, height=1), "compact": CompactConfig(),
    "compact, cells of 4": CompactConfig(cell=4, widths=(8, 20)), "compact, grey": CompactConfig(in_channels=1, cell=2),
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
    assert float((a - b).abs().max()) <= TOLERANCE
    assert float(a.std()) > 1e-3  # something was compared


@pytest.mark.parametrize("slope", [0.25, 0.0, -0.5, 1.5])
def test_single_slope(slope):
    prelu = nn.PReLU(init=slope).double()
    assert_equal(prelu(noise(1, 8, 5, 6)), identities.single_slope(prelu)(noise(1, 8, 5, 6)))


def test_prelu_with_a_slope_per_channel_is_refused():
    with pytest.raises(ValueError, match="one slope"):
        identities.single_slope(nn.PReLU(8))


@pytest.mark.parametrize("channels", [3, 8, 24])
def test_channel_mean(channels):
    x = noise(1, channels, 5, 6)
    assert_equal(x.mean(1, keepdim=True), identities.channel_mean(channels, x)(x))


def test_whole_map_mean():
    x = noise(1, 8, 5, 6)
    assert_equal(x.mean((2, 3), keepdim=True), identities.whole_map_mean((5, 6))(x))


@pytest.mark.parametrize("bias", [False, True])
def test_split_inputs(bias):
    conv = randomised(nn.Conv2d(7, 5, 3, padding=1, bias=bias))
    a, b, c = noise(1, 7, 5, 6).split((2, 4, 1), 1)
    parts = identities.split_inputs(conv, (2, 4, 1))
    assert_equal(conv(torch.cat([a, b, c], 1)), parts[0](a) + parts[1](b) + parts[2](c))


@pytest.mark.parametrize("gate", [nn.Sigmoid(), nn.Hardsigmoid()])
@pytest.mark.parametrize("bias", [False, True])
def test_gate_in_three_parts(gate, bias):
    """gate(conv(x)) * f through a convolution: the shift in the bias, the clamp, the factor in the next weights."""
    conv, after = randomised(nn.Conv2d(3, 4, 3, padding=1, bias=bias)), randomised(nn.Conv2d(4, 5, 1, bias=False))
    x, features = 4 * noise(1, 3, 9, 8), noise(1, 4, 9, 8)
    weight = identities.clamp(gate)(identities.shifted(conv, gate)(x))
    after_clamp = identities.scaled(after, identities.hard_sigmoid_scale(gate))
    assert_equal(after(gate(conv(x)) * features), after_clamp(weight * features))


def test_attentions_of_the_published_network():
    x = noise(1, 16, 7, 6)
    spatial, channel = randomised(SpatialAttention()), randomised(ChannelAttention(16))
    assert_equal(spatial(x), published.DeployableSA(spatial, 16)(x))
    assert_equal(channel(x), blocks.DeployableCA(channel, (7, 6))(x))


def test_attentions_of_a_compact_network():
    x = noise(1, 16, 7, 6)
    spatial, channel = randomised(ProjectedSpatialAttention(16)), randomised(PeakChannelAttention(16))
    factor = identities.hard_sigmoid_scale(nn.Hardsigmoid())
    assert factor == 1 / 6
    assert_equal(spatial(x), compact.DeployableProjectedSA(spatial)(x) * factor)
    assert_equal(channel(x), blocks.DeployableCA(channel, (7, 6))(x) * factor)


@pytest.mark.parametrize("channels, size", [(16, (7, 6)), (16, (23, 24))])
@pytest.mark.parametrize("activation", [nn.PReLU, nn.ReLU])
@pytest.mark.parametrize("kind", ["published", "compact"])
def test_dau(channels, size, activation, kind):
    spatial, channel = ((SpatialAttention(), ChannelAttention(channels)) if kind == "published" else
                        (ProjectedSpatialAttention(channels), PeakChannelAttention(channels)))
    unit = randomised(DAU(channels, activation(), spatial, channel), std=2 / channels)
    x = noise(1, channels, *size)
    copied = copy.deepcopy(unit)
    of_spatial = (published.DeployableSA(copied.SA, channels) if kind == "published" else
                  compact.DeployableProjectedSA(copied.SA))
    rewritten = blocks.DeployableDAU(copied, of_spatial, size)
    assert rewritten.joined == (size == (7, 6))
    assert_equal(unit(x), rewritten(x))


@pytest.mark.parametrize("streams", [1, 2, 3, 4])
def test_skff(streams):
    fusion = randomised(SKFF(16, streams))
    maps = list(noise(streams, 1, 16, 7, 6) * 3)
    assert_equal(fusion(maps), published.deployable_skff(fusion, (7, 6))(maps))


def test_hard_skff():
    fusion = randomised(HardSKFF(16))
    maps = noise(2, 1, 16, 7, 6) * 3
    assert_equal(fusion(*maps), blocks.TwoStreamSKFF(fusion, [(7, 6)] * 2)(list(maps)))


def test_parallel_streams():
    """Also at odd sizes of the small stream, and with weights that differ from channel to channel."""
    block = randomised(CompactMSRB((8, 20)), std=0.2)
    x = noise(1, 8, 6, 14)
    rewritten = compact.ParallelStreams(copy.deepcopy(block), (6, 14))
    x, own, other = rewritten(x)
    assert_equal(block(x), compact.tail_of(block)(torch.cat([x, own, rewritten.enlarge(other)], 1)))
    assert_equal(block(x), compact.LinearTail(compact.tail_of(block), rewritten.enlarge)((x, own, other)))


@pytest.mark.parametrize("bias", [False, True])
def test_product_of_two_convolutions(bias):
    first, second = randomised(nn.Conv2d(7, 5, 1, bias=bias)), randomised(nn.Conv2d(5, 6, 1))
    x = noise(1, 7, 4, 3)
    assert_equal(second(first(x)), identities.product(second, first)(x))


def test_a_linear_tail_is_one_convolution_in_two_parts():
    network = prepare(filled(CompactMIRNet()), (30, 20)).network
    assert network.conv_out.near.in_channels == 2 * 16 and network.conv_out.out_channels == 15
    parameters = dict(network.named_parameters())
    assert not [name for name in parameters if "tail" in name or "conv_out" in name and not name.startswith("conv_out")]
    assert any(name.startswith("body.0.body.0.blocks.0.") for name in parameters)  # as in the network


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 6)])
def test_transposed_convolution_in_phases(size):
    conv = randomised(nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, bias=False))
    x = noise(2, 6, *size)
    assert_equal(F.relu(conv(x)), identities.PhaseConvolution(conv, nn.ReLU())(x))
    assert sum(p.numel() for p in identities.PhaseConvolution(conv, nn.ReLU()).parameters()) == conv.weight.numel()


def test_another_transposed_convolution_is_refused():
    with pytest.raises(ValueError, match="kernel_size"):
        identities.PhaseConvolution(nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1, bias=False), nn.ReLU())


def test_residual_up():
    up = randomised(ResidualUp(16))
    x = noise(1, 16, 5, 3)
    assert_equal(up(x), published.deployable_up(copy.deepcopy(up))(x))


@pytest.mark.parametrize("name", CONFIGS)
def test_whole_network(name):
    model = filled(create_model(CONFIGS[name])).double()
    height, width = 2 * model.multiple, 3 * model.multiple
    prepared = prepare(model, (width, height))
    image = torch.from_numpy(np.random.default_rng(0).random((1, model.config.in_channels, height, width)))
    with torch.no_grad():
        core = model.to_core(image)
        output = prepared.network(core)
        assert_equal(model.core(core), output)
        assert_equal(model(image), model.restore(image, output))
    assert prepared.input_shape == (*core.shape[2:], core.shape[1])


@pytest.mark.parametrize("preset", PRESETS)
def test_presets(preset):
    """In float32, as they are converted; tests/parity has float64."""
    model = filled(create_model(preset))
    height, width = (3 * picture_multiple(model), 2 * picture_multiple(model))
    prepared = prepare(model, (width, height))
    core = nchw(prepared.to_core(np.random.default_rng(0).random((1, height, width, 3))))
    original, method = prepared.original
    with torch.no_grad():
        assert float((getattr(original, method)(core) - prepared.network(core)).abs().max()) <= 2e-5
    assert next(prepared.network.parameters()).dtype == torch.float32


def test_pictures_go_in_and_come_out_as_in_the_network():
    model = filled(CompactMIRNet())
    prepared = prepare(model, (40, 20), np.random.default_rng(0).random((2, 20, 40, 3)))
    pictures = np.random.default_rng(1).random((3, 20, 40, 3)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(pictures).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
        core = torch.from_numpy(prepared.to_core(pictures)).permute(0, 3, 1, 2)
        outputs = torch.cat([prepared.network(one[None]) for one in core]).permute(0, 2, 3, 1).numpy()
    assert prepared.equalised is not model and prepared.model is model
    np.testing.assert_allclose(prepared.to_pictures(pictures, outputs), expected, rtol=1e-4, atol=1e-4)  # up to 5


def test_the_network_is_left_alone_and_sharing_kept():
    model = filled(MIRNet(MIRNetConfig(**SMALL)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network = prepare(model, (8, 8)).network
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert any(isinstance(module, nn.PReLU) for module in model.modules())
    rows = network.body[0].body[0].blocks
    assert all(row[0] is row[1] for row in rows)
    stored = {parameter.data_ptr() for parameter in network.parameters()}
    assert not stored & {parameter.data_ptr() for parameter in model.parameters() if parameter.requires_grad}


@pytest.mark.parametrize("size", [(8, 6), (9, 8), (8, 0), (-4, 8)])
def test_a_side_that_does_not_fit_is_refused(size):
    with pytest.raises(UserError, match=f"{size[0]}x{size[1]} does not suit.*multiples of 4, the nearest is"):
        prepare(MIRNet(MIRNetConfig(**SMALL)), size)
