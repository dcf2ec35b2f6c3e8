"""The deployable form: a trained MIRNet rewritten, exactly, into a network of one size that integer runtimes run well.

`deployable` copies the network and replaces blocks by equivalent ones; how the blocks are wired stays the code of
`mirnet_torch.model`, but for `TwoStreamMSRB`. Every replacement is one small class or function below whose docstring
states the identity that makes it exact; nothing is approximated, so in float64 the result equals the network to
rounding. What they avoid, and why (operators are those of TensorFlow Lite):

* reductions over a map as MEAN, which is slow and rounds differently from version to version: AVERAGE_POOL_2D instead;
* a softmax across streams on rank 5, with GATHER or Flex operators behind it;
* TRANSPOSE_CONV with a cropping STRIDED_SLICE behind it;
* activations that are operators of their own instead of being fused into the convolution before them;
* large concatenations in front of a convolution, in a DAU the largest tensor of the network;
* in narrow ones additions, which take longer there than a longer convolution, linear operators behind one another,
  and work on enlarged maps that can be done before.
"""
from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from typing import Any, Callable, Sequence, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mirnet_torch.model import (DAU, MSRB, SKFF, ChannelAttention, Mean, MIRNet, MIRNetConfig, PeakChannelAttention,
                                ProjectedSpatialAttention, ResidualUp, SpatialAttention, _total)

JOINED = 16384  # values up to which a DAU keeps its concatenation; a larger one is a small network's peak of memory

# PhaseConvolution pads kernels of even size on one side; that torch copies its input for that concerns nobody here.
warnings.filterwarnings("ignore", "Using padding='same' with even kernel", UserWarning)


class DeployableMIRNet(nn.Module):
    """A MIRNet of one size. `forward` is the core: what becomes the .onnx and the .tflite.

    Space to depth, and what `MIRNet.apply_maps` does with the affine head, stay outside: a caller who writes pixels
    into the input has the first for free, and the second is arithmetic on single pixels of the image, which keeps its
    8 bits.

    Args:
        model: a network whose blocks are already rewritten; only `deployable` calls this.

    Shape:
        Core input (1, C*shuffle**2, H/shuffle, W/shuffle), the channels ordered as by PixelUnshuffle, values in [0, 1].

        With head="affine" the output are the maps (1, C*(C+2), H/shuffle, W/shuffle) of `MIRNet.maps`; with
        head="residual" it is the restored picture I + R, not clamped, in the layout of the core input.
    """

    def __init__(self, model: MIRNet, *, height: int, width: int) -> None:
        super().__init__()
        self.config, self.height, self.width = model.config, height, width
        self.conv_in, self.body, self.conv_out = model.conv_in, model.body, model.conv_out
        rows, columns = height // self.config.shuffle, width // self.config.shuffle
        self.core_shape = (rows, columns, self.conv_in.in_channels)  # without the batch, channels last
        self.maps_shape = (rows, columns, self.conv_out.out_channels)
        self._apply_maps = model.apply_maps

    def forward(self, core: Tensor) -> Tensor:
        maps = self.conv_out(self.body(self.conv_in(core)))
        return core + maps if self.config.head == "residual" else maps

    def core_input(self, image: Tensor) -> Tensor:
        """Turn images (B, C, H, W) into core inputs (B, C*shuffle**2, H/shuffle, W/shuffle)."""
        return F.pixel_unshuffle(image, self.config.shuffle)

    def picture(self, image: Tensor, maps: Tensor) -> Tensor:
        """Return the restored pictures (B, C, H, W), not clamped, that follow from images and the core's outputs."""
        if self.config.head == "residual":
            return F.pixel_shuffle(maps, self.config.shuffle)
        return self._apply_maps(image, maps)


def deployable(model: MIRNet, *, height: int, width: int) -> DeployableMIRNet:
    """Rewrite a trained network for images of one size; the network itself is left alone.

    Weights that several columns share stay shared. The data type is that of the network.

    Raises:
        ValueError: a side is not a positive multiple of `model.config.multiple`.
    """
    config = model.config
    for name, side in (("height", height), ("width", width)):
        if side < 1 or side % config.multiple:
            raise ValueError(f"{name} must be a positive multiple of {config.multiple} (shuffle * 2**(streams - 1)), "
                             f"not {side}")
    net = copy.deepcopy(model).requires_grad_(False).eval()
    size = (height // config.shuffle, width // config.shuffle)
    if _linear_tail(config) and config.kernel_size == config.n_RRG == config.n_MSRB == 1:
        join_tail(net, size)
    else:
        for group in cast(Sequence[Any], net.body):
            for number, block in enumerate(group.body[:-1]):
                group.body[number] = deployable_msrb(block, size, config)
    _replace(net, ResidualUp, deployable_up)
    _replace(net, nn.PReLU, single_slope)
    return DeployableMIRNet(net, height=height, width=width)


def single_slope(prelu: nn.PReLU) -> nn.LeakyReLU:
    """PReLU with one slope a is x for x > 0, else a * x: LEAKY_RELU with a constant, for any a."""
    if prelu.weight.numel() != 1:
        raise ValueError("only a PReLU with one slope for all channels can be rewritten")
    return nn.LeakyReLU(float(prelu.weight.detach()))


def channel_mean(channels: int, like: Tensor) -> nn.Conv2d:
    """The mean over C channels is a 1x1 convolution whose C weights are all 1/C."""
    return _convolution(torch.full((1, channels, 1, 1), 1 / channels, dtype=torch.float64), like=like)


def whole_map_mean(size: tuple[int, int]) -> nn.AvgPool2d:
    """The mean over a map of a known size is an average pool whose window is the map."""
    return nn.AvgPool2d(size)


def split_inputs(conv: nn.Conv2d, parts: Sequence[int]) -> list[nn.Conv2d]:
    """conv(concat(a, b, ...)) = conv_a(a) + conv_b(b) + ..., each with its slice of weights; the first has the bias.

    Args:
        parts: channels of a, b, ...
    """
    slices = conv.weight.split(list(parts), 1)
    return [_convolution(weight, conv.bias if i == 0 else None, like=conv.weight, padding=conv.padding)
            for i, weight in enumerate(slices)]


def hard_sigmoid_scale(gate: nn.Module) -> float:
    """hardsigmoid(x) = relu6(x + 3) / 6: the factor 1/6 that is still to be applied behind `clamp`.

    A sigmoid leaves nothing to do: 1.
    """
    return 1 / 6 if isinstance(gate, nn.Hardsigmoid) else 1.0


def shifted(conv: nn.Conv2d, gate: nn.Module) -> nn.Conv2d:
    """The + 3 of hardsigmoid(conv(x)) = relu6(conv(x) + 3) / 6 becomes the convolution's bias; a sigmoid has none."""
    if not isinstance(gate, nn.Hardsigmoid):
        return conv
    bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
    return _convolution(conv.weight, bias.double() + 3, like=conv.weight, padding=conv.padding)


def clamp(gate: nn.Module) -> nn.Module:
    """What remains of a gate after `shifted` and before `hard_sigmoid_scale`; ReLU6 fuses into what is before it."""
    return nn.ReLU6() if isinstance(gate, nn.Hardsigmoid) else nn.Sigmoid()


def _times(weights: Tensor, factor: float) -> Tensor:
    return weights if factor == 1 else weights * factor


def scaled(conv: nn.Conv2d, factor: float) -> nn.Conv2d:
    """conv(factor * x) = (factor * conv)(x) for a convolution without bias."""
    return _convolution(conv.weight.double() * factor, like=conv.weight, padding=conv.padding)


class DeployableSA(nn.Module):
    """Spatial attention without the last factor of its gate: x -> x * clamp(conv_max(max) + conv_mean(mean)).

    Identities: `channel_mean`; `split_inputs` for the convolution of [max, mean], so that each has its own scale.
    """

    def __init__(self, attention: SpatialAttention, channels: int) -> None:
        super().__init__()
        conv: Any = attention.spatial.conv
        self.mean = channel_mean(channels, conv.weight)
        of_max, of_mean = split_inputs(conv, (1, 1))
        self.spatial = nn.ModuleList([shifted(of_max, attention.gate), of_mean])
        self.gate = clamp(attention.gate)

    def forward(self, x: Tensor) -> Tensor:
        of_max, of_mean = self.spatial
        return x * self.gate(of_max(x.amax(1, keepdim=True)) + of_mean(self.mean(x)))


class DeployableProjectedSA(nn.Module):
    """Spatial attention from one convolution, without the last factor of its gate. Identity: `shifted`."""

    def __init__(self, attention: ProjectedSpatialAttention) -> None:
        super().__init__()
        self.spatial = nn.Sequential(shifted(attention.spatial, attention.gate), clamp(attention.gate))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.spatial(x)


class DeployableCA(nn.Module):
    """Channel attention without the last factor of its gate. Identities: `whole_map_mean`, `shifted`.

    The peak of a map of a known size, if it is asked for, is a maximum pool whose window is the map.
    """

    def __init__(self, attention: ChannelAttention | PeakChannelAttention, size: tuple[int, int]) -> None:
        super().__init__()
        layers: Any = attention.conv_du
        squeeze, relu, excite, gate = layers
        self.mean = whole_map_mean(size)
        self.peak = nn.MaxPool2d(size) if isinstance(attention, PeakChannelAttention) else None
        self.conv_du = nn.Sequential(squeeze, relu, shifted(excite, gate), clamp(gate))

    def forward(self, x: Tensor) -> Tensor:
        described = self.mean(x)
        if self.peak is not None:
            described = torch.cat([described, self.peak(x)], 1)
        return x * self.conv_du(described)


class DeployableDAU(nn.Module):
    """Dual attention unit: x + W concat(SA(f), CA(f)), f = body(x), in one of two forms.

    * x + W1 SA(f) + W2 CA(f), which spares the largest tensor of the network. Identity: `split_inputs`.
    * Up to `JOINED` values in it: as it was, which spares an addition: one costs a Cortex-M4 some 80 instructions per
      element, as much as 57 multiply-accumulates.

    The 1/6 of hard sigmoids is left to W. Identity: `scaled`.
    """

    def __init__(self, unit: DAU, size: tuple[int, int]) -> None:
        super().__init__()
        channels = unit.conv1x1.out_channels
        self.body = unit.body
        spatial, channel = cast(Any, unit.SA), cast(Any, unit.CA)
        self.SA: nn.Module = (DeployableProjectedSA(spatial) if isinstance(spatial, ProjectedSpatialAttention)
                              else DeployableSA(spatial, channels))
        self.CA = DeployableCA(channel, size)
        gates = (spatial.gate, channel.conv_du[-1])
        of_spatial, of_channel = (scaled(conv, hard_sigmoid_scale(gate)) for conv, gate
                                  in zip(split_inputs(unit.conv1x1, (channels, channels)), gates))
        self.joined = 2 * channels * size[0] * size[1] <= JOINED
        self.conv1x1: Any = nn.ModuleList([of_spatial, of_channel])
        if self.joined:
            self.conv1x1 = _convolution(torch.cat([of_spatial.weight, of_channel.weight], 1), like=of_spatial.weight)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        attended = self.SA(features), self.CA(features)
        if self.joined:
            return x + self.conv1x1(torch.cat(attended, 1))
        of_spatial, of_channel = self.conv1x1
        return x + (of_spatial(attended[0]) + of_channel(attended[1]))


def deployable_dau(unit: DAU, size: tuple[int, int]) -> nn.Module:
    """Rewrite a dual attention unit for maps of `size`; one without attention stays."""
    return DeployableDAU(unit, size) if unit.dual else unit


class _Squeeze(nn.Module):
    """The descriptor that SKFF derives its weights from.

    mean(a + b + ...) = mean(a) + mean(b) + ...: the sum is one of C numbers, not of maps. Identity: `whole_map_mean`.
    """

    def __init__(self, fusion: SKFF, sizes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.mean = nn.ModuleList(whole_map_mean(size) for size in sizes)
        self.conv_du = fusion.conv_du

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        return self.conv_du(_total([mean(stream) for mean, stream in zip(self.mean, streams)]))  # (1, d, 1, 1)


class TwoStreamSKFF(nn.Module):
    """SKFF of two streams a, b with scores z0 = W0 s, z1 = W1 s: a gate(D s) + b gate(-D s), D = W0 - W1.

    A softmax of two is a sigmoid of their difference, sigmoid(-z) = 1 - sigmoid(z) and so for its piecewise linear form
    (gate "hard_sigmoid"), relu6(z + 3) / 6; the difference of two convolutions of one input is the convolution with
    the difference of their weights.
    """

    def __init__(self, fusion: SKFF, sizes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        gate = nn.Hardsigmoid() if fusion.hard else nn.Sigmoid()
        layers: Any = fusion.fcs
        first, second = layers
        self.squeeze = _Squeeze(fusion, sizes)
        difference = first.weight.double() - second.weight.double()
        self.fcs = nn.ModuleList(shifted(_convolution(sign * difference, like=first.weight), gate) for sign in (1, -1))
        self.gate = clamp(gate)
        self.scale = hard_sigmoid_scale(gate)

    def weighted(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two terms of the fusion."""
        squeezed = self.squeeze((first, second))
        a, b = (_times(self.gate(fc(squeezed)), self.scale) for fc in self.fcs)  # (1, C, 1, 1)
        return first * a, second * b

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        first, second = self.weighted(*streams)
        return first + second


class ManyStreamSKFF(nn.Module):
    """SKFF of k > 2 streams; the softmax across streams is taken on the channel axis of one small tensor (1, k, 1, C).

    * The scores of all streams are one transposed convolution of the squeezed (1, d, 1, 1): with a kernel of 1 x C and
      k output channels, position c of channel s is fcs[s](z)[c]. That puts the streams where SOFTMAX wants them, last
      in NHWC.
    * Stream s comes out again, as (1, C, 1, 1), by a convolution whose window is the whole tensor and whose filter c is
      1 at channel s of position c. A reshape or transpose would do the same; onnx2tf then loses track of which axis is
      which and wraps every multiplication of maps in TRANSPOSE. The filters are the same for all fusions of C channels.
    """

    def __init__(self, fusion: SKFF, sizes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.squeeze = _Squeeze(fusion, sizes)
        layers: Any = fusion.fcs
        weights = torch.stack([fc.weight[:, :, 0, 0].T for fc in layers], 1).unsqueeze(2)  # (d, k, 1, C)
        squeezed, streams, _, channels = weights.shape
        self.fcs = nn.ConvTranspose2d(squeezed, streams, (1, channels), bias=False).to(weights)
        self.fcs.weight = nn.Parameter(weights, requires_grad=False)
        positions = torch.eye(channels).view(channels, 1, 1, channels)
        self.take = nn.ModuleList(_convolution(positions * unit.view(1, streams, 1, 1), like=weights)
                                  for unit in torch.eye(streams))

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        weights = self.fcs(self.squeeze(streams)).softmax(1)  # (1, k, 1, C)
        return _total([stream * take(weights) for take, stream in zip(self.take, streams)])


class OneStreamSKFF(nn.Module):
    """SKFF of one stream: a softmax of one score is 1, so the fusion is the identity."""

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        return streams[0]


def deployable_skff(fusion: SKFF | Mean, size: tuple[int, int]) -> nn.Module:
    """Rewrite a fusion of maps of `size`."""
    if isinstance(fusion, Mean):
        return fusion
    if len(fusion.fcs) == 1:
        return OneStreamSKFF()
    return (TwoStreamSKFF if len(fusion.fcs) == 2 else ManyStreamSKFF)(fusion, [size] * len(fusion.fcs))


class TwoStreamMSRB(nn.Module):
    """MSRB of two streams with plain resampling, up to the 1x1 convolution at its end: x -> x, a, v.

    a and b = up(v) are the two terms of the last SKFF; what is left to do, `TwoStreamTail`, is linear.

    Identities: enlarging treats every channel alike and keeps the mean (half a pixel from the edges, by two: every
    position has the same share), so mean(up(v)) = mean(v) and up(v) * w = up(v * w) for one weight w per channel.
    """

    def __init__(self, block: MSRB, size: tuple[int, int]) -> None:
        super().__init__()
        full, half = size, (size[0] // 2, size[1] // 2)
        parts: Any = block
        self.blocks = nn.ModuleList(deployable_dau(column[0], own) for column, own in zip(parts.blocks, (full, half)))
        self.down = parts.resampler(0, 1)
        self.last_up, self.enlarge = parts.last_up["1"].body[0]
        if block.columns > 1:
            self.up = parts.resampler(1, 0).body[0][0]
        self.selective_kernel = nn.ModuleList(
            TwoStreamSKFF(fusion, sizes)
            for fusion, sizes in zip(parts.selective_kernel, ((full, half), (half, half))))
        self.columns, self.exchange = block.columns, block.exchange

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        to_full, *to_half = cast(Sequence[TwoStreamSKFF], self.selective_kernel)
        full = self.blocks[0](x)
        half = self.blocks[1](self.down(x if self.exchange == "none" else full))
        for _ in range(1, self.columns):
            own, other = to_full.weighted(full, self.up(half))
            half = self.blocks[1](to_half[0]((self.down(full), half)))
            full = self.blocks[0](own + self.enlarge(other))
        return x, *to_full.weighted(full, self.last_up(half))


class TwoStreamTail(nn.Module):
    """A 1x1 convolution of concat(x, a, up(v)), where x, a, v is what `TwoStreamMSRB` returns.

    Identities: `split_inputs` into x, a and up(v); `up` commutes with a 1x1 convolution, see `deployable_up`. So the
    concatenation has two thirds of its size, and the small map is convolved instead of the enlarged one.
    """

    def __init__(self, tail: nn.Conv2d, enlarge: nn.Module) -> None:
        super().__init__()
        channels, self.out_channels = tail.in_channels // 3, tail.out_channels
        self.near, self.far = split_inputs(tail, (2 * channels, channels))
        self.enlarge = enlarge

    def forward(self, parts: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        x, own, other = parts
        return self.near(torch.cat([x, own], 1)) + self.enlarge(self.far(other))


def tail_of(block: MSRB) -> nn.Conv2d:
    """x + A (a + b) + bias = [I A A] concat(x, a, b) + bias: what an MSRB does last, A being 1x1."""
    conv = block.conv_out
    identity = torch.eye(len(conv.weight)).to(conv.weight)[..., None, None]
    return _convolution(torch.cat([identity, conv.weight, conv.weight], 1), conv.bias, like=conv.weight)


def deployable_msrb(block: MSRB, size: tuple[int, int], config: MIRNetConfig) -> nn.Module:
    """Rewrite a block for maps of `size`."""
    if _linear_tail(config):
        parallel = TwoStreamMSRB(block, size)
        return nn.Sequential(OrderedDict(parts=parallel, tail=TwoStreamTail(tail_of(block), parallel.enlarge)))
    parts: Any = block
    for j in range(config.height):
        own = (size[0] >> j, size[1] >> j)
        parts.blocks[j] = nn.ModuleList([deployable_dau(parts.blocks[j][0], own)] * config.width)
        if j < len(parts.selective_kernel):
            parts.selective_kernel[j] = deployable_skff(parts.selective_kernel[j], own)
    return block


def _linear_tail(config: MIRNetConfig) -> bool:
    """Tell whether `TwoStreamMSRB` serves the blocks of a network."""
    return (config.height == 2 and config.resample == "plain" and config.tail_kernel == 1
            and config.fusion == "selective")


def join_tail(net: MIRNet, size: tuple[int, int]) -> None:
    """Make one convolution of all behind the last SKFF, in a network of one RRG, one MSRB and 1x1 convolutions there.

    With p = concat(x, a, b) and the block's tail T: conv_out(x + B (T p) + bias) is linear in p, and x is part of p.
    """
    [group] = cast(Sequence[Any], net.body)
    block, last = group.body
    tail = _product(last, tail_of(block))
    channels = len(tail.weight)
    tail.weight[:, :channels, 0, 0] += torch.eye(channels).to(tail.weight)
    parallel = TwoStreamMSRB(block, size)
    # The modules keep the names that they had.
    net.body = nn.Sequential(nn.Sequential(OrderedDict(body=nn.Sequential(parallel))))
    cast(Any, net).conv_out = TwoStreamTail(_product(net.conv_out, tail), parallel.enlarge)


def _product(outer: nn.Conv2d, inner: nn.Conv2d) -> nn.Conv2d:
    """outer(inner(x)) of two 1x1 convolutions is one whose matrix is their product."""
    first, second = (conv.weight[:, :, 0, 0].double() for conv in (inner, outer))
    biases = [conv.weight.new_zeros(len(conv.weight)) if conv.bias is None else conv.bias for conv in (inner, outer)]
    bias = second @ biases[0].double() + biases[1].double()
    return _convolution((second @ first)[..., None, None], bias, like=outer.weight)


class PhaseConvolution(nn.Module):
    """A transposed convolution (kernel 3, stride 2, padding 1, output padding 1) as four convolutions at half the size.

    Output 2i + p of a row is sum_k w[k] x[i'] over 2i' + k - 1 = 2i + p: for p = 0 only w[1] x[i]; for p = 1
    w[2] x[i] + w[0] x[i + 1]. In two dimensions the four phases are convolutions with 1x1, 1x2, 2x1 and 2x2 kernels,
    which look one position to the right and below (zero there outside the map). They hold the 9 C^2 weights of the
    original and no zeros; DEPTH_TO_SPACE interleaves them, phase by phase as TensorFlow orders channels ("DCR").

    `activation` is applied to the phases: an elementwise function commutes with moving elements.
    """

    def __init__(self, conv: nn.ConvTranspose2d, activation: nn.Module) -> None:
        super().__init__()
        expected = dict(kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), output_padding=(1, 1), bias=None)
        if any(getattr(conv, name) != value for name, value in expected.items()):
            raise ValueError(f"only a transposed convolution with {expected} can be rewritten, not {conv}")
        kernel = conv.weight.transpose(0, 1)  # (out, in, 3, 3)
        taps = ([1], [2, 0])
        self.phases = nn.ModuleList(
            _convolution(kernel[:, :, rows][:, :, :, columns], like=conv.weight, padding="same")
            for rows in taps for columns in taps)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return _DepthToSpace.apply(torch.cat([self.activation(phase(x)) for phase in self.phases], 1))


class _DepthToSpace(torch.autograd.Function):
    """(B, 4C, H, W) -> (B, C, 2H, 2W), channels ordered as [row phase, column phase, C]: ONNX's DepthToSpace, mode DCR.

    `torch.pixel_shuffle` knows only the other order, [C, row phase, column phase].
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return x.reshape(b, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2).reshape(b, c // 4, 2 * h, 2 * w)

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op("DepthToSpace", x, blocksize_i=2, mode_s="DCR")


def deployable_up(up: ResidualUp) -> ResidualUp:
    """Rewrite residual upsampling in place: `PhaseConvolution`, and the 1x1 convolution before bilinear interpolation.

    Interpolation mixes positions with weights that do not depend on the channel, a 1x1 convolution without bias mixes
    channels with weights that do not depend on the position: they commute, and the convolution costs a quarter first.
    """
    layers: Any = up.top
    first, activation, double, second_activation, last = layers
    bilinear, conv = up.bot
    up.top = nn.Sequential(first, activation, PhaseConvolution(double, second_activation), last)
    up.bot = nn.Sequential(conv, bilinear)
    return up


def _convolution(weight: Tensor, bias: Tensor | None = None, *, like: Tensor,
                 padding: Any = 0) -> nn.Conv2d:
    """Return a convolution with these weights, in the data type and on the device of `like`."""
    out_channels, in_channels, rows, columns = weight.shape
    conv = nn.Conv2d(in_channels, out_channels, (rows, columns), padding=padding, bias=bias is not None)
    conv.weight = nn.Parameter(weight.detach().to(like, copy=True).contiguous(), requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach().to(like, copy=True), requires_grad=False)
    return conv.eval()


def _replace(root: nn.Module, kind: type[nn.Module], rewrite: Callable[[Any], nn.Module]) -> None:
    """Replace every module of one kind below `root`; one that occurs several times gets one replacement."""
    done: dict[int, nn.Module] = {}
    for parent in list(root.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, done.setdefault(id(child), rewrite(child)))
