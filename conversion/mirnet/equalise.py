"""Equalisation: the same network with other weights, whose channels have equal ranges and lose less in int8.

    model = equalised(model, images)

An int8 tensor has one scale for all its channels. A channel with a tenth of the largest range has a tenth of the steps.
So every channel c is multiplied by s[c] > 0 in the convolution that computes it, and divided by s[c] in those that read
it. All operations in between commute with a positive factor: sums, gates, means, maxima, enlarging, ReLU. The network
computes the same function, up to rounding. `photo` has two such networks, which are equalised one by one.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.1.
Departures: ranges are measured on images, and all layers that a skip connection joins have the same scales.
"""
from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any, cast

import torch
from torch import Tensor, nn

from mirnet_torch.compact import CompactMSRB, ProjectedSpatialAttention
from mirnet_torch.model import DAU, ResidualDown, ResidualUp, SpatialAttention
from mirnet_torch.photo import PhotoMIRNet
from mirnet_torch.presets import Network

LARGEST = 32.0  # largest scale, for channels that are nearly always 0


@torch.no_grad()
def equalised(model: Network, images: Tensor) -> Network:
    """Return a network with channels of equal range that computes the same function; `model` is not changed.

    Args:
        model: a trained network.
        images: (B, C, H, W) in [0, 1], like those it will be used on; sides are multiples of `model.multiple`.
    """
    net = copy.deepcopy(model).eval()
    parts = [_Equaliser(net), *([_Equaliser(net.detail)] if isinstance(net, PhotoMIRNet) else [])]
    for image in images:
        if isinstance(net, PhotoMIRNet):
            net(image[None])
        else:
            net.core(net.to_core(image[None]))
    for part in parts:
        part.apply()
    return net


class _Equaliser:
    """Watches a network (conv_in, body, conv_out) until `apply` changes its weights, in place."""

    def __init__(self, net: Any) -> None:
        self.net = net
        self.blocks: list[Any] = [block for group in net.body for block in group.body[:-1]]
        # By block and stream; all blocks share stream 0.
        self.levels: dict[tuple[int, int], _Ranges] = defaultdict(_Ranges)
        # After a DAU's first convolution, after its second.
        self.inside: dict[DAU, tuple[_Ranges, _Ranges]] = {}
        self.handles: list[Any] = []
        for number, block in enumerate(self.blocks):
            for stream, column in enumerate(block.blocks):
                unit = column[0]
                hidden, features = self.inside[unit] = _Ranges(), _Ranges()
                self.handles += _watch(unit, self.levels[number if stream else 0, stream], hidden, features)

    def apply(self) -> None:
        for handle in self.handles:
            handle.remove()
        main = self.levels[0, 0].scales()
        _scale(self.net.conv_in, made=main)
        for group in self.net.body:
            _scale(group.body[-1], taken=main, made=main)
        _scale(self.net.conv_out, taken=main)
        for number, block in enumerate(self.blocks):
            streams = [main] + [self.levels[number, stream].scales() for stream in range(1, len(block.blocks))]
            _scale(block.conv_out, taken=main, made=main)
            for scales, column in zip(streams, block.blocks):
                _scale_unit(column[0], scales, *self.inside[column[0]])
            for scales, fusion in zip(streams, block.selective_kernel):
                _scale(fusion.conv_du[0], taken=scales)
            for source, target, path in _paths(block):
                for conv in _ends(path.body[0])[0]:
                    _scale(conv, taken=streams[source])
                for conv in _ends(path.body[-1])[1]:
                    _scale(conv, made=streams[target])


class _Ranges:
    """The largest magnitude of every channel, over some tensors that must have the same scales."""

    def __init__(self) -> None:
        self._seen: dict[str, Tensor] = defaultdict(lambda: torch.zeros(1))

    def see(self, tensor: Tensor, name: str = "") -> None:
        self._seen[name] = torch.maximum(self._seen[name], tensor.abs().amax((0, 2, 3)))

    def scales(self) -> Tensor:
        """Return the factors, at least 1, that make the channels' ranges equal: geometric means over the names.

        They are rounded to quarters of an octave, since their last bits differ between processors.
        """
        shares = [seen / seen.max().clamp(min=1e-9) for seen in self._seen.values()]
        octaves = torch.stack([each.clamp(min=1 / LARGEST) for each in shares]).log2().mean(0)
        return (((octaves.max() - octaves) * 4).round() / 4).exp2()


def _watch(unit: DAU, stream: _Ranges, hidden: _Ranges, features: _Ranges) -> list[Any]:
    """Record the ranges of the tensors of a DAU; return the handles of the hooks."""
    first, activation, _ = unit.body

    def pass_through(_: Any, given: tuple[Tensor], made: Tensor) -> None:
        stream.see(given[0])
        stream.see(made)
    handles = [unit.register_forward_hook(pass_through),
               first.register_forward_hook(lambda _, __, made: hidden.see(activation(made))),
               unit.body.register_forward_hook(lambda _, __, made: features.see(made))]
    for name in ("SA", "CA"):
        handles.append(getattr(unit, name).register_forward_hook(
            lambda _, __, made, name=name: features.see(made, name)))
    return handles


def _scale_unit(unit: DAU, stream: Tensor, hidden: _Ranges, features: _Ranges) -> None:
    first, _, second = unit.body
    between, behind = hidden.scales(), features.scales()
    if isinstance(unit.SA, SpatialAttention):  # its maximum compares the channels
        behind = torch.ones_like(behind)
    _scale(first, taken=stream, made=between)
    _scale(second, taken=between, made=behind)
    _scale(unit.conv1x1, taken=behind, made=stream)
    if isinstance(unit.SA, ProjectedSpatialAttention):
        _scale(unit.SA.spatial, taken=behind)
    _scale(cast(Any, unit.CA).conv_du[0], taken=behind)


def _scale(conv: Any, *, taken: Tensor | None = None, made: Tensor | None = None) -> None:
    """Adapt a convolution to inputs scaled by `taken` (in every concatenated part); scale its outputs by `made`."""
    if taken is not None:
        conv.weight /= taken.repeat(conv.in_channels // len(taken))[:, None, None]
    if made is not None:
        conv.weight *= made[:, None, None, None]
        if conv.bias is not None:
            conv.bias *= made


def _paths(block: Any) -> list[tuple[int, int, Any]]:
    """Return (source stream, target stream, module) of every module that resamples a stream to another resolution."""
    if isinstance(block, CompactMSRB):
        return ([(j, j + 1, path) for j, path in enumerate(block.down.values())]
                + [(int(j), int(j) - 1, path) for j, path in block.last_up.items()])
    back = [(int(j), 0, path) for j, path in block.last_up.items()]
    streams = range(len(block.widths))
    return [(s, j, block.resampler(s, j)) for s in streams for j in streams if s != j] + back


def _ends(step: Any) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return the convolutions that read the input of a resampling step, and those that compute its output."""
    if isinstance(step, (ResidualDown, ResidualUp)):
        return [step.top[0], step.bot[1]], [step.top[-1], step.bot[1]]
    return [step[0]], [step[0]]
