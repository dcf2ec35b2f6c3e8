"""`photo` for use on a CPU, not training: the function of `PhotoMIRNet.forward` in less time.

    image = restore(model, dark)           # model(dark), up to rounding
    image = refine(model, dark, bright)    # model.refine(dark, bright), up to rounding

It reads like `photo.py` and `compact.py`, block by block, and uses the same modules and weights. What differs:

* Maps are stored channels-last, the layout in which the convolutions of CPUs compute.
* Sums and activations overwrite maps that are not needed any more.
* Convolutions of 1x1 run in oneDNN, also in one thread, for which PyTorch takes a matrix product that is slower.
* Spatial attention, a 3x3 convolution to one channel, is a matrix product to nine channels and a sum of shifted maps.
* Pictures of a batch are computed one after the other, so that their maps stay in the cache.

`python tests/rate.py` measures files from end to end.
"""
from __future__ import annotations

from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mirnet_torch.compact import CompactMIRNet, CompactMSRB, HardSKFF, PeakChannelAttention, ProjectedSpatialAttention
from mirnet_torch.model import DAU, RRG, Resample, pad_image
from mirnet_torch.photo import BLOCK, DetailNetwork, PhotoMIRNet
from mirnet_torch.restoration.inference import is_built_of

_KINDS = {PhotoMIRNet, DetailNetwork, RRG, CompactMSRB, HardSKFF, DAU, ProjectedSpatialAttention, PeakChannelAttention,
          Resample, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Conv2d, nn.ReLU, nn.Hardsigmoid, nn.Upsample}


def suits(model: nn.Module) -> TypeGuard[PhotoMIRNet]:
    """Return whether `restore` computes what a network's own forward pass does, and does it sooner.

    It does for a `PhotoMIRNet` on a CPU, as `photo.py` builds it. See `inference.suits`.
    """
    return type(model) is PhotoMIRNet and next(model.parameters()).device.type == "cpu" and is_built_of(model, _KINDS)


def restore(model: PhotoMIRNet, image: Tensor, *, exposure: float = 0.0) -> Tensor:
    """Return `model(image, exposure=exposure)` up to rounding, for a network that `suits`. It has no gradient."""
    height, width = image.shape[-2:]
    padded = pad_image(image, model.config.in_channels, model.multiple)
    with torch.no_grad():
        bright = CompactMIRNet.restore(model, padded, model.core(model.to_core(padded)), exposure=exposure)
    return refine(model, padded, bright)[..., :height, :width]


@torch.no_grad()
def refine(model: PhotoMIRNet, image: Tensor, bright: Tensor) -> Tensor:
    """Return `model.refine(image, bright)` up to rounding, for a network that `suits`. It has no gradient."""
    height, width = image.shape[-2:]
    dark, raised = (pad_image(each, model.config.in_channels, model.config.detail_multiple) for each in (image, bright))
    both = torch.cat([raised, dark.clamp(min=0).sqrt_()], 1)
    change = torch.cat([_change(model.detail, each) for each in both.split(1)])
    return bright + change[..., :height, :width].to(bright.dtype)


def _change(network: DetailNetwork, images: Tensor) -> Tensor:
    """DetailNetwork."""
    x = network.conv_in(F.pixel_unshuffle(images, BLOCK).contiguous(memory_format=torch.channels_last))
    features = x
    *blocks, conv = _parts(_parts(network.body)[0].body)
    for block in blocks:
        features = _block(block, features)
    return F.pixel_shuffle(network.conv_out(_pointwise(conv, features).add_(x)).contiguous(), BLOCK)


def _block(block: CompactMSRB, x: Tensor) -> Tensor:
    """CompactMSRB."""
    (of_finest,), *others = _parts(block.blocks)
    streams = [_unit(of_finest, x)]
    for down, (of_stream,) in zip(block.down.values(), others):
        streams.append(_unit(of_stream, down(streams[-1])))
    result = streams.pop()
    for up, fusion in reversed(list(zip(_parts(block.last_up.values()), _parts(block.selective_kernel)))):
        conv, bilinear = _parts(up.body)[0]
        result = _fuse(fusion, streams.pop(), bilinear(_pointwise(conv, result)))
    return _pointwise(block.conv_out, result).add_(x)


def _unit(unit: DAU, x: Tensor) -> Tensor:
    """DAU with the attention of `compact.py`."""
    first, _, second = _parts(unit.body)
    features = second(first(x).relu_())
    attention: Any = unit
    spatial = F.hardsigmoid(_to_one_channel(attention.SA.spatial.weight, features), inplace=True)  # (B, 1, H, W)
    described = torch.cat([features.mean((2, 3), keepdim=True), features.amax((2, 3), keepdim=True)], 1)
    channel = attention.CA.conv_du(described)  # (B, C, 1, 1)
    return _pointwise(unit.conv1x1, torch.cat([features * spatial, features * channel], 1)).add_(x)


def _fuse(fusion: HardSKFF, first: Tensor, second: Tensor) -> Tensor:
    """HardSKFF. The mean of a sum is the sum of the means."""
    squeezed = fusion.conv_du(first.mean((2, 3), keepdim=True) + second.mean((2, 3), keepdim=True))
    score, other = (fc(squeezed) for fc in fusion.fcs)
    return second.lerp_(first, F.hardsigmoid(score - other))


def _to_one_channel(weight: Tensor, x: Tensor) -> Tensor:
    """Convolve (B, C, H, W) with one kernel (1, C, 3, 3) and pad with zeros: (B, 1, H, W).

    What a position gives to each of its nine neighbours is one product; `fold` brings it there and adds.
    """
    batch, channels, height, width = x.shape
    given = weight[0].flip(1, 2).reshape(channels, 9).T  # a neighbour to the right sees the position at its left
    return F.fold(given @ x.permute(0, 2, 3, 1).reshape(batch, height * width, channels).mT, (height, width), 3,
                  padding=1)


def _pointwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a convolution of 1x1; a kernel of one tap is the same at any dilation, and PyTorch leaves one to oneDNN."""
    return F.conv2d(x, conv.weight, conv.bias, dilation=2)


def _parts(modules: Any) -> list[Any]:
    """Return the modules of a sequence, for the type checker of any type."""
    return list(modules)
