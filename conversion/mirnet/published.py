"""The deployable form of the published network: an exact rewrite for one size of image and integer runtimes.

Blocks are replaced by equivalent ones; `mirnet_torch.model` still runs them. What the rewrites avoid (operators are
those of TensorFlow Lite):

* MEAN over a map, which is slow and rounds differently from version to version; AVERAGE_POOL_2D replaces it;
* a softmax across streams on rank 5, followed by GATHER or Flex operators;
* TRANSPOSE_CONV followed by a STRIDED_SLICE that crops;
* large concatenations before a convolution; that of a DAU is the largest tensor of the network.
"""
from __future__ import annotations

import copy
from typing import Any, Sequence, cast

import torch
from torch import Tensor, nn

from conversion.mirnet.blocks import DeployableDAU, Squeeze, TwoStreamSKFF
from conversion.mirnet.identities import (PhaseConvolution, channel_mean, convolution, replace_modules, single_slope,
                                          split_inputs)
from mirnet_torch.model import MSRB, SKFF, MIRNet, ResidualUp, SpatialAttention, total


class DeployableMIRNet(nn.Module):
    """The module that is exported: `MIRNet.core` with rewritten blocks.

    Shape:
        (1, C, H, W) in [0, 1] -> the restored image, not clamped, of the same shape, for the H and W that `deployable`
        was given.
    """

    def __init__(self, conv_in: nn.Module, body: nn.Module, conv_out: nn.Module) -> None:
        super().__init__()
        self.conv_in, self.body, self.conv_out = conv_in, body, conv_out

    def forward(self, image: Tensor) -> Tensor:
        return image + self.conv_out(self.body(self.conv_in(image)))


def deployable(model: MIRNet, *, height: int, width: int) -> DeployableMIRNet:
    """Rewrite a trained network for images of one size; the network itself is not changed.

    Weights that several columns share stay shared. The data type is that of the network. Both sides must be multiples
    of `model.multiple`; `prepare` checks it.
    """
    net = copy.deepcopy(model).requires_grad_(False).eval()
    for group in cast(Sequence[Any], net.body):
        for block in group.body[:-1]:
            _rewrite_msrb(block, (height, width))
    replace_modules(net, ResidualUp, deployable_up)
    replace_modules(net, nn.PReLU, single_slope)
    return DeployableMIRNet(net.conv_in, net.body, net.conv_out)


def _rewrite_msrb(block: MSRB, size: tuple[int, int]) -> None:
    """Rewrite a block in place for maps of `size` (rows, columns)."""
    parts: Any = block
    for j, width in enumerate(block.widths):
        own = (size[0] >> j, size[1] >> j)
        unit = parts.blocks[j][0]
        rewritten = DeployableDAU(unit, DeployableSA(unit.SA, width), own)
        parts.blocks[j] = nn.ModuleList([rewritten] * block.columns)
        parts.selective_kernel[j] = deployable_skff(parts.selective_kernel[j], own)


class DeployableSA(nn.Module):
    """Spatial attention: x -> x * sigmoid(conv_max(max) + conv_mean(mean)).

    Identities: `channel_mean`; `split_inputs` for the convolution of [max, mean], so that each has its own scale.
    """

    def __init__(self, attention: SpatialAttention, channels: int) -> None:
        super().__init__()
        conv: Any = attention.spatial.conv
        self.mean = channel_mean(channels, conv.weight)
        self.spatial = nn.ModuleList(split_inputs(conv, (1, 1)))
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        of_max, of_mean = self.spatial
        return x * self.gate(of_max(x.amax(1, keepdim=True)) + of_mean(self.mean(x)))


class ManyStreamSKFF(nn.Module):
    """SKFF of k > 2 streams; the softmax across streams is taken on the channel axis of one small tensor (1, k, 1, C).

    * The scores of all streams are one transposed convolution of the squeezed (1, d, 1, 1): with a kernel of 1 x C and
      k output channels, position c of channel s is fcs[s](z)[c]. So the streams are on the last axis in NHWC, as
      SOFTMAX needs them.
    * The weights of stream s, (1, C, 1, 1), are taken out by a convolution whose window is the whole tensor and whose
      filter c is 1 at channel s of position c. A reshape or transpose would do the same, but then onnx2tf confuses the
      axes and adds TRANSPOSE around every product of maps. All fusions of C channels have the same filters.
    """

    def __init__(self, fusion: SKFF, sizes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.squeeze = Squeeze(fusion, sizes)
        layers: Any = fusion.fcs
        weights = torch.stack([fc.weight[:, :, 0, 0].T for fc in layers], 1).unsqueeze(2)  # (d, k, 1, C)
        squeezed, streams, _, channels = weights.shape
        self.fcs = nn.ConvTranspose2d(squeezed, streams, (1, channels), bias=False).to(weights)
        self.fcs.weight = nn.Parameter(weights, requires_grad=False)
        positions = torch.eye(channels).view(channels, 1, 1, channels)
        self.take = nn.ModuleList(convolution(positions * unit.view(1, streams, 1, 1), like=weights)
                                  for unit in torch.eye(streams))

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        weights = self.fcs(self.squeeze(streams)).softmax(1)  # (1, k, 1, C)
        return total([stream * take(weights) for take, stream in zip(self.take, streams)])


class OneStreamSKFF(nn.Module):
    """SKFF of one stream: a softmax of one score is 1, so the fusion is the identity."""

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        return streams[0]


def deployable_skff(fusion: SKFF, size: tuple[int, int]) -> nn.Module:
    """Rewrite a fusion of maps of `size` (rows, columns)."""
    if len(fusion.fcs) == 1:
        return OneStreamSKFF()
    return (TwoStreamSKFF if len(fusion.fcs) == 2 else ManyStreamSKFF)(fusion, [size] * len(fusion.fcs))


def deployable_up(up: ResidualUp) -> ResidualUp:
    """Rewrite residual upsampling in place: `PhaseConvolution`, and the 1x1 convolution before bilinear interpolation.

    Interpolation mixes positions with weights that do not depend on the channel, a 1x1 convolution without bias mixes
    channels with weights that do not depend on the position. So they commute, and before the interpolation the
    convolution is a quarter of the work.
    """
    layers: Any = up.top
    first, activation, double, second_activation, last = layers
    bilinear, conv = up.bot
    up.top = nn.Sequential(first, activation, PhaseConvolution(double, second_activation), last)
    up.bot = nn.Sequential(conv, bilinear)
    return up
