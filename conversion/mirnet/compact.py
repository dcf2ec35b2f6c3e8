"""The deployable form of a compact network: an exact rewrite for one size of image and a microcontroller.

After the last fusion everything is linear, so it becomes one convolution. Operations come before an enlargement where
they can. Besides what the rewrites of the published network avoid (`published.py`), these avoid

* activations that are separate operators instead of being fused into the convolution before them;
* additions, which are slower on a Cortex-M4 than a larger convolution;
* two linear operators in a row, and work on enlarged maps.
"""
from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from conversion.mirnet.blocks import DeployableDAU, MapSize, TwoStreamSKFF
from conversion.mirnet.identities import clamp, convolution, product, shifted, split_inputs
from mirnet_torch.compact import CompactMIRNet, CompactMSRB, ProjectedSpatialAttention


class DeployableCompact(nn.Module):
    """The module that is exported: `CompactMIRNet.core` with rewritten blocks.

    Shape:
        Cells (1, C * cell**2, H / cell, W / cell) in [0, 1] -> maps (1, 3 + C (C + 1), H / cell, W / cell), for the H
        and W that `deployable` was given, or for all.
    """

    def __init__(self, conv_in: nn.Module, body: nn.Module, conv_out: nn.Module) -> None:
        super().__init__()
        self.conv_in, self.body, self.conv_out = conv_in, body, conv_out

    def forward(self, cells: Tensor) -> Tensor:
        return self.conv_out(self.body(self.conv_in(cells)))


def deployable(model: CompactMIRNet, *, height: int | None, width: int | None) -> DeployableCompact:
    """Rewrite a trained network for images of one size (None: of any); the network itself is not changed.

    One convolution replaces everything after the last SKFF: with p = concat(x, a, b) and the block's tail T,
    conv_out(x + B (T p) + bias) is linear in p, and x is part of p. The data type is that of the network. Both sides
    must be multiples of `model.multiple`; `prepare` checks it.
    """
    net: Any = copy.deepcopy(model).requires_grad_(False).eval()
    block, last = net.body[0].body
    tail = product(last, tail_of(block))
    channels = len(tail.weight)
    tail.weight[:, :channels, 0, 0] += torch.eye(channels).to(tail.weight)
    size = None if height is None or width is None else (height // model.config.cell, width // model.config.cell)
    streams = ParallelStreams(block, size)
    # The modules keep their names.
    body = nn.Sequential(nn.Sequential(OrderedDict(body=nn.Sequential(streams))))
    return DeployableCompact(net.conv_in, body, LinearTail(product(net.conv_out, tail), streams.enlarge))


class DeployableProjectedSA(nn.Module):
    """Spatial attention from one convolution, without its gate's last factor, 1/6. Identity: `shifted`."""

    def __init__(self, attention: ProjectedSpatialAttention) -> None:
        super().__init__()
        gate = nn.Hardsigmoid()
        self.spatial = nn.Sequential(shifted(attention.spatial, gate), clamp(gate))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.spatial(x)


class ParallelStreams(nn.Module):
    """The streams of an MSRB from `finest` on, without the 1x1 convolution at its end: x -> x, a, v.

    a and b = up(v) are the two terms of the finest SKFF; the rest, `LinearTail`, is linear.

    Identities: bilinear enlarging by two without aligned corners treats all channels the same and counts all positions
    equally, so mean(up(v)) = mean(v), and up(v) * w = up(v * w) for one weight w per channel.
    """

    def __init__(self, block: CompactMSRB, size: MapSize, finest: int = 0) -> None:
        super().__init__()
        full, half = size, None if size is None else (size[0] // 2, size[1] // 2)
        parts: Any = block
        (of_full,), (of_half,), *coarser = parts.blocks[finest:]
        self.blocks = nn.ModuleList([
            DeployableDAU(of_full, DeployableProjectedSA(of_full.SA), full),
            FusedStreams(block, half, finest + 1) if coarser else
            DeployableDAU(of_half, DeployableProjectedSA(of_half.SA), half)])
        self.down = list(parts.down.values())[finest]
        self.last_up, self.enlarge = parts.last_up[str(finest + 1)].body[0]
        self.selective_kernel = nn.ModuleList([TwoStreamSKFF(parts.selective_kernel[finest], (full, half))])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fuse: Any = self.selective_kernel[0]
        full = self.blocks[0](x)
        half = self.blocks[1](self.down(full))
        return x, *fuse.weighted(full, self.last_up(half))


class FusedStreams(nn.Module):
    """The streams of an MSRB from `finest` on: x -> what their last SKFF returns."""

    def __init__(self, block: CompactMSRB, size: MapSize, finest: int = 0) -> None:
        super().__init__()
        self.streams = ParallelStreams(block, size, finest)

    def forward(self, x: Tensor) -> Tensor:
        _, own, other = self.streams(x)
        return own + self.streams.enlarge(other)


class LinearTail(nn.Module):
    """A 1x1 convolution of concat(x, a, up(v)), where x, a, v is what `ParallelStreams` returns.

    Identities: `split_inputs` into x, a and up(v); `up` commutes with a 1x1 convolution, as in
    `published.deployable_up`. So the concatenation shrinks to two thirds, and the small map is convolved instead of
    the enlarged one.
    """

    def __init__(self, tail: nn.Conv2d, enlarge: nn.Module) -> None:
        super().__init__()
        channels, self.out_channels = tail.in_channels // 3, tail.out_channels
        self.near, self.far = split_inputs(tail, (2 * channels, channels))
        self.enlarge = enlarge

    def forward(self, parts: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        x, own, other = parts
        return self.near(torch.cat([x, own], 1)) + self.enlarge(self.far(other))


def tail_of(block: CompactMSRB) -> nn.Conv2d:
    """The end of an MSRB, with a 1x1 convolution A: x + A (a + b) + bias = [I A A] concat(x, a, b) + bias."""
    conv = block.conv_out
    identity = torch.eye(len(conv.weight)).to(conv.weight)[..., None, None]
    return convolution(torch.cat([identity, conv.weight, conv.weight], 1), conv.bias, like=conv.weight)
