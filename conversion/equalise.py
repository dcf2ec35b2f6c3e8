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
from typing import Any, cast

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
    groups: Any = net.body
    blocks: list[Any] = [block for group in groups for block in group.body[:-1]]
    levels: dict[tuple[int, int], _Ranges] = defaultdict(_Ranges)  # by block and stream; of stream 0 all blocks are one
    inside: dict[DAU, tuple[_Ranges, _Ranges]] = {}  # behind a DAU's first convolution, behind its second
    handles = []
    for number, block in enumerate(blocks):
        for stream, column in enumerate(block.blocks):
            unit = column[0]
            hidden, features = inside[unit] = _Ranges(), _Ranges()
            handles += _watch(unit, levels[number if stream else 0, stream], hidden, features)
    for image in images:
        net.maps(image[None])
    for handle in handles:
        handle.remove()

    main = levels[0, 0].scales()
    _scale(net.conv_in, made=main)
    for group in groups:
        _scale(group.body[-1], taken=main, made=main)
    _scale(net.conv_out, taken=main)
    for number, block in enumerate(blocks):
        streams = [main] + [levels[number, stream].scales() for stream in range(1, len(block.blocks))]
        _scale(block.conv_out, taken=main, made=main)
        for scales, column in zip(streams, block.blocks):
            _scale_unit(column[0], scales, *inside[column[0]])
        for scales, fusion in zip(streams, block.selective_kernel):
            if hasattr(fusion, "conv_du"):
                _scale(fusion.conv_du[0], taken=scales)
        for source, target, path in _paths(block):
            for conv in _ends(path.body[0])[0]:
                _scale(conv, taken=streams[source])
            for conv in _ends(path.body[-1])[1]:
                _scale(conv, made=streams[target])
    return net


class _Ranges:
    """The largest magnitudes of the channels of some tensors, which are to be scaled alike."""

    def __init__(self) -> None:
        self._seen: dict[str, Tensor] = defaultdict(lambda: torch.zeros(1))

    def see(self, tensor: Tensor, name: str = "") -> None:
        self._seen[name] = torch.maximum(self._seen[name], tensor.abs().amax((0, 2, 3)))

    def scales(self) -> Tensor:
        """Return what makes the channels' ranges equal, in the geometric mean over the names; at least 1.

        In quarters of an octave, so that the last bits of a range, which differ between processors, change nothing.
        """
        shares = [seen / seen.max().clamp(min=1e-9) for seen in self._seen.values()]
        octaves = torch.stack([each.clamp(min=1 / LARGEST) for each in shares]).log2().mean(0)
        return (((octaves.max() - octaves) * 4).round() / 4).exp2()


def _watch(unit: DAU, stream: _Ranges, hidden: _Ranges, features: _Ranges) -> list[Any]:
    """Note the ranges of all that passes through a DAU; returns the handles of the hooks."""
    first, activation, _ = unit.body

    def pass_through(_: Any, given: tuple[Tensor], made: Tensor) -> None:
        stream.see(given[0])
        stream.see(made)
    handles = [unit.register_forward_hook(pass_through),
               first.register_forward_hook(lambda _, __, made: hidden.see(activation(made))),
               unit.body.register_forward_hook(lambda _, __, made: features.see(made))]
    for name in ("SA", "CA") if unit.dual else ():
        handles.append(getattr(unit, name).register_forward_hook(
            lambda _, __, made, name=name: features.see(made, name)))
    return handles


def _scale_unit(unit: DAU, stream: Tensor, hidden: _Ranges, features: _Ranges) -> None:
    first, _, second = unit.body
    between, behind = hidden.scales(), features.scales()
    if unit.dual and isinstance(unit.SA, SpatialAttention):  # its maximum compares the channels
        behind = torch.ones_like(behind)
    _scale(first, taken=stream, made=between)
    _scale(second, taken=between, made=behind)
    _scale(unit.conv1x1, taken=behind, made=stream)
    if unit.dual:
        if isinstance(unit.SA, ProjectedSpatialAttention):
            _scale(unit.SA.spatial, taken=behind)
        _scale(cast(Any, unit.CA).conv_du[0], taken=behind)


def _scale(conv: Any, *, taken: Tensor | None = None, made: Tensor | None = None) -> None:
    """Let a convolution take channels scaled by `taken`, of every input in a concatenation, and scale its own."""
    if taken is not None:
        conv.weight /= taken.repeat(conv.in_channels // len(taken))[:, None, None]
    if made is not None:
        conv.weight *= made[:, None, None, None]
        if conv.bias is not None:
            conv.bias *= made


def _paths(block: Any) -> list[tuple[int, int, Any]]:
    """Return (source stream, target stream, module) of everything that brings one stream to another's resolution."""
    return [(s, j, block.resampler(s, j)) for s, j in block.pairs] + \
        [(int(j), 0, path) for j, path in block.last_up.items()]


def _ends(step: Any) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return the convolutions that take what a resampling step is given, and those that make what it returns."""
    if isinstance(step, (ResidualDown, ResidualUp)):
        return [step.top[0], step.bot[1]], [step.top[-1], step.bot[1]]
    return [step[0]], [step[0]]
