"""Deployable forms of the blocks that both kinds of network have: dual attention and the fusion of two streams."""
from __future__ import annotations

from typing import Any, Sequence

import torch
from torch import Tensor, nn

from conversion.mirnet.identities import (clamp, convolution, hard_sigmoid_scale, scaled, shifted, split_inputs, times,
                                          whole_map_mean, whole_map_peak)
from mirnet_torch.compact import HardSKFF, PeakChannelAttention
from mirnet_torch.model import DAU, SKFF, ChannelAttention, total

MapSize = tuple[int, int] | None  # (rows, columns) of maps; None: any
JOINED = 16384  # a DAU keeps a concatenation of at most so many values; a larger one would be the peak of memory


class DeployableCA(nn.Module):
    """Channel attention without its gate's last factor, 1/6. Identities: `whole_map_mean` and `_peak`, `shifted`."""

    def __init__(self, attention: ChannelAttention | PeakChannelAttention, size: MapSize) -> None:
        super().__init__()
        layers: Any = attention.conv_du
        squeeze, relu, excite, gate = layers
        self.mean = whole_map_mean(size)
        self.peak = whole_map_peak(size) if isinstance(attention, PeakChannelAttention) else None
        self.conv_du = nn.Sequential(squeeze, relu, shifted(excite, gate), clamp(gate))

    def forward(self, x: Tensor) -> Tensor:
        described = self.mean(x)
        if self.peak is not None:
            described = torch.cat([described, self.peak(x)], 1)
        return x * self.conv_du(described)


class DeployableDAU(nn.Module):
    """Dual attention unit: x + W concat(SA(f), CA(f)), f = body(x), in one of two forms.

    * x + W1 SA(f) + W2 CA(f), which avoids the concatenation, the largest tensor of the network. Identity:
      `split_inputs`.
    * Unchanged if the concatenation has at most `JOINED` values. This avoids an addition, which takes a Cortex-M4
      about 80 instructions per element, as many as 57 multiply-accumulates.

    The 1/6 of hard sigmoids goes into W. Identity: `scaled`.

    Args:
        unit: the unit to rewrite.
        spatial: its spatial attention, rewritten, without its gate's last factor, 1/6.
        size: of its maps.
    """

    def __init__(self, unit: DAU, spatial: nn.Module, size: MapSize) -> None:
        super().__init__()
        channels = unit.conv1x1.out_channels
        self.body = unit.body
        attention: Any = unit.CA
        self.SA, self.CA = spatial, DeployableCA(attention, size)
        scale = hard_sigmoid_scale(attention.conv_du[-1])  # both attentions of a unit have the same gate
        of_spatial, of_channel = (scaled(conv, scale) for conv in split_inputs(unit.conv1x1, (channels, channels)))
        self.joined = size is not None and 2 * channels * size[0] * size[1] <= JOINED
        self.conv1x1: Any = nn.ModuleList([of_spatial, of_channel])
        if self.joined:
            self.conv1x1 = convolution(torch.cat([of_spatial.weight, of_channel.weight], 1), like=of_spatial.weight)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        attended = self.SA(features), self.CA(features)
        if self.joined:
            return x + self.conv1x1(torch.cat(attended, 1))
        of_spatial, of_channel = self.conv1x1
        return x + (of_spatial(attended[0]) + of_channel(attended[1]))


class Squeeze(nn.Module):
    """The descriptor from which SKFF computes its weights.

    mean(a + b + ...) = mean(a) + mean(b) + ..., so C numbers are added, not maps. Identity: `whole_map_mean`.
    """

    def __init__(self, fusion: SKFF | HardSKFF, sizes: Sequence[MapSize]) -> None:
        super().__init__()
        self.mean = nn.ModuleList(whole_map_mean(size) for size in sizes)
        self.conv_du = fusion.conv_du

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        return self.conv_du(total([mean(stream) for mean, stream in zip(self.mean, streams)]))  # (1, d, 1, 1)


class TwoStreamSKFF(nn.Module):
    """SKFF of two streams a, b with scores z0 = W0 s, z1 = W1 s: a gate(D s) + b gate(-D s), D = W0 - W1.

    A softmax of two is a sigmoid of their difference, sigmoid(-z) = 1 - sigmoid(z) and so for its piecewise linear form
    (`HardSKFF`), relu6(z + 3) / 6; the difference of two convolutions of one input is the convolution with the
    difference of their weights.
    """

    def __init__(self, fusion: SKFF | HardSKFF, sizes: Sequence[MapSize]) -> None:
        super().__init__()
        gate = nn.Hardsigmoid() if isinstance(fusion, HardSKFF) else nn.Sigmoid()
        layers: Any = fusion.fcs
        first, second = layers
        self.squeeze = Squeeze(fusion, sizes)
        difference = first.weight.double() - second.weight.double()
        self.fcs = nn.ModuleList(shifted(convolution(sign * difference, like=first.weight), gate) for sign in (1, -1))
        self.gate = clamp(gate)
        self.scale = hard_sigmoid_scale(gate)

    def weighted(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two terms of the fusion."""
        squeezed = self.squeeze((first, second))
        a, b = (times(self.gate(fc(squeezed)), self.scale) for fc in self.fcs)  # (1, C, 1, 1)
        return first * a, second * b

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        first, second = self.weighted(*streams)
        return first + second
