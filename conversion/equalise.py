"""Equal ranges for all channels: the same network with other weights, which loses less when it is rounded to int8.

    model = equalised(model, images)

An int8 tensor has one scale for all its channels. Where channel c reaches a tenth of what the largest reaches, it has a
tenth of the steps. Scaling it up by s[c] > 0 in what makes it, and down in what takes it, changes nothing else: all
between is convolutions, sums, gates that multiply, means, peaks, enlargements, and ReLUs, which commute with a positive
factor. So the network stays what it is, exactly up to rounding.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.1;
here ranges are measured on images, and a scale reaches over all layers that a skip connection ties together.
"""
from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any, Sequence

import torch
from torch import Tensor, nn

from mirnet_torch.model import DAU, MIRNet, ProjectedSpatialAttention, ResidualDown, ResidualUp, SpatialAttention

LARGEST = 32.0  # a channel that is nearly always 0 is not blown up further


@torch.no_grad()
def equalised(model: MIRNet, images: Tensor) -> MIRNet:
    """Return a network that computes the same with channels of equal range; `model` is left alone.

    Args:
        model: a trained network.
        images: (B, C, H, W) in [0, 1], what it will see; sides are multiples of `model.config.multiple`.
    """
    net = copy.deepcopy(model).eval()
    levels = _Ranges()  # by (block, stream); stream 0 runs through the whole network, so its block is always 0
    inside: dict[DAU, tuple[_Ranges, _Ranges]] = {}
    handles = []
    groups: Any = net.body
    blocks: list[Any] = [block for group in groups for block in group.body[:-1]]
    for number, block in enumerate(blocks):
        for stream, column in enumerate(block.blocks):
            key, unit = (number if stream else 0, stream), column[0]
            hidden, features = inside[unit] = _Ranges(), _Ranges()
            handles += [unit.register_forward_hook(lambda _, given, made, key=key: levels.see(key, given[0], made)),
                        unit.body[0].register_forward_hook(
                            lambda _, __, made, hidden=hidden, act=unit.body[1]: hidden.see("", act(made))),
                        unit.body.register_forward_hook(lambda _, __, made, seen=features: seen.see("features", made))]
            if unit.dual:
                handles += [part.register_forward_hook(lambda part, _, made, seen=features: seen.see(part, made))
                            for part in (unit.SA, unit.CA)]
    for image in images:
        net.maps(image[None])
    for handle in handles:
        handle.remove()

    main = levels.scales([(0, 0)])
    _scale(net.conv_in, made=main)
    for group in groups:
        _scale(group.body[-1], taken=main, made=main)
    _scale(net.conv_out, taken=main)
    for number, block in enumerate(blocks):
        streams = [main] + [levels.scales([(number, stream)]) for stream in range(1, len(block.blocks))]
        _scale(block.conv_out, taken=main, made=main)
        for scales, column, fusion in zip(streams, block.blocks, block.selective_kernel):
            unit = column[0]
            hidden, features = inside[unit]
            pooled = isinstance(getattr(unit, "SA", None), SpatialAttention)  # its maximum compares the channels
            _scale_unit(unit, scales, hidden.scales([""]),
                        torch.ones_like(scales) if pooled else features.scales(features.seen))
            if hasattr(fusion, "conv_du"):
                _scale(fusion.conv_du[0], taken=scales)
        for source, target, path in _paths(block):
            first, last = path.body[0], path.body[-1]
            for conv in _ends(first)[0]:
                _scale(conv, taken=streams[source])
            for conv in _ends(last)[1]:
                _scale(conv, made=streams[target])
    return net


class _Ranges:
    """The largest magnitudes of the channels of some tensors."""

    def __init__(self) -> None:
        self.seen: dict[Any, Tensor] = defaultdict(lambda: torch.zeros(1))

    def see(self, key: Any, *tensors: Tensor) -> None:
        for tensor in tensors:
            self.seen[key] = torch.maximum(self.seen[key], tensor.abs().amax((0, 2, 3)))

    def scales(self, keys: Any) -> Tensor:
        """Return what makes the channels' ranges equal, in the geometric mean over several tensors; at least 1.

        In quarters of an octave, so that the last bits of a range, which differ between processors, change nothing.
        """
        shares = [self.seen[key] / self.seen[key].max().clamp(min=1e-9) for key in keys]
        octaves = torch.stack([each.clamp(min=1 / LARGEST) for each in shares]).log2().mean(0)
        return (((octaves.max() - octaves) * 4).round() / 4).exp2()


def _scale_unit(unit: DAU, stream: Tensor, hidden: Tensor, features: Tensor) -> None:
    first, _, second = unit.body
    _scale(first, taken=stream, made=hidden)
    _scale(second, taken=hidden, made=features)
    _scale(unit.conv1x1, taken=features, made=stream)
    spatial, channel = getattr(unit, "SA", None), getattr(unit, "CA", None)
    if isinstance(spatial, ProjectedSpatialAttention):
        _scale(spatial.spatial, taken=features)
    if channel is not None:
        _scale(channel.conv_du[0], taken=features)


def _scale(conv: Any, *, taken: Tensor | None = None, made: Tensor | None = None) -> None:
    """Let a convolution take channels scaled by `taken`, of every input in a concatenation, and scale its own."""
    if taken is not None:
        conv.weight /= taken.repeat(conv.in_channels // len(taken))[:, None, None]
    if made is not None:
        conv.weight *= made[:, None, None, None]
        if conv.bias is not None:
            conv.bias *= made


def _paths(block: Any) -> Sequence[tuple[int, int, Any]]:
    """Return (source stream, target stream, module) of everything that brings one stream to another's resolution."""
    last = len(block.blocks) - 1
    down = [(s, j) for s in range(last) for j in range(last, s, -1)]
    up = [(s, j) for s in range(last, 0, -1) for j in range(s)]
    return [(*ends, path) for ends, path in zip(down, block.down.values())] + \
        [(*ends, path) for ends, path in zip(up, block.up.values())] + \
        [(int(j), 0, path) for j, path in block.last_up.items()]


def _ends(step: Any) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return the convolutions that take what a resampling step is given, and those that make what it returns."""
    if isinstance(step, ResidualDown):
        return [step.top[0], step.bot[1]], [step.top[-1], step.bot[1]]
    if isinstance(step, ResidualUp):
        return [step.top[0], step.bot[1]], [step.top[-1], step.bot[1]]
    return [step[0]], [step[0]]
