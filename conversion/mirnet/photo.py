"""The deployable form of `photo`: the whole network from picture to picture, as one exact rewrite.

`compact.py` and `blocks.py` rewrite the two networks in it. These avoid besides

* moving pixels into channels: a convolution over blocks of pixels is one with a stride (`over_blocks`), and the blocks
  come back in the order that DEPTH_TO_SPACE knows (`by_phase`);
* softplus, which has no operator, and slices.

In int8 only `QUANTISED` parts are computed in integers. The rest needs more than 8 bits: roots of dark pixels,
gains, the division by the divisor. So do the colour maps: they take 2 % of the arithmetic, and in int8 they made some
pictures 8 levels brighter (six darkened photographs of scikit-image: 22.67 instead of 23.48 dB; float32 has 23.50).
"""
from __future__ import annotations

import copy
from typing import Any, Sequence

import torch
from torch import Tensor, nn

from conversion.mirnet.blocks import MapSize
from conversion.mirnet.compact import DeployableCompact, FusedStreams
from conversion.mirnet.compact import deployable as deployable_compact
from conversion.mirnet.identities import DepthToSpace, by_phase, convolution, over_blocks, product
from mirnet_torch.compact import CompactMSRB
from mirnet_torch.photo import BLOCK, DetailNetwork, PhotoMIRNet

QUANTISED = ("detail",)  # the modules of `DeployablePhoto` that int8 models compute in integers


class DeployablePhoto(nn.Module):
    """`PhotoMIRNet.forward`, clamped, for one size of pictures, or with `size` None the parts of it for any.

    Shape:
        (1, C, H, W) in [0, 1] -> the same; both sides are multiples of `picture_multiple(model)`.

    Args:
        model: a trained network; it is not changed.
        size: (rows, columns) of the pictures.
    """

    def __init__(self, model: PhotoMIRNet, size: MapSize) -> None:
        super().__init__()
        channels, cell = model.config.in_channels, model.config.cell
        self.colour = _colour(model, size)
        self.factors = Factors(channels, like=model.conv_in.weight)
        self.enlarge = nn.Upsample(scale_factor=cell, mode="bilinear", align_corners=False)
        self.recolour = Recolouring(channels, like=model.conv_in.weight)
        self.detail = DeployableDetail(model.detail, size)

    def forward(self, image: Tensor) -> Tensor:
        root = image.sqrt()
        bright = self.recolour(image, root, [self.enlarge(each) for each in self.factors(self.colour(root))])
        return (bright + self.detail(bright, root)).clamp(0, 1)


def _colour(model: PhotoMIRNet, size: MapSize) -> DeployableCompact:
    """Rewrite the colour maps' network: roots of pixels -> gain, root gain, roll-off, C*C of a matrix, C offsets.

    tint[c] r[c] + the sum over d of share[c, d] (r[d] - r[c]) is row c of a matrix times r. Its entries are sums of
    maps, so they and the factor 1/2 of offsets go into the last convolution.
    """
    channels = model.config.in_channels
    rows = torch.eye(model.config.maps, dtype=torch.float64)
    tint, share, offset = rows[3:].split([channels, channels * (channels - 1), channels])
    matrix = []
    for c, of_others in enumerate(share.unflatten(0, (channels, channels - 1))):
        entries = list(of_others)
        entries.insert(c, tint[c] - of_others.sum(0))
        matrix += entries
    rearranged = torch.cat([rows[:3], torch.stack(matrix), offset / 2])
    net = copy.deepcopy(model).requires_grad_(False)
    net.conv_out = product(convolution(rearranged[..., None, None], like=net.conv_out.weight), net.conv_out)
    height, width = size or (None, None)
    core = deployable_compact(net, height=height, width=width)
    core.conv_in = over_blocks(net.conv_in, model.config.cell)
    return core


class Factors(nn.Module):
    """What `CompactMIRNet.factors` computes from the rearranged maps, as five tensors.

    Identities: exp(softplus(x) / 2) = sqrt(1 + e^x); softplus(x) = relu(x) + log(1 + e^-|x|); sigmoid(x) =
    exp(-softplus(-x)), since TensorFlow would quantise a sigmoid wherever it stands. The five are taken out by
    convolutions, which know the factors of the functions; the bridge knows no slices.
    """

    def __init__(self, channels: int, *, like: Tensor) -> None:
        super().__init__()
        self.parts = [1, 1, 1, channels * channels, channels]
        rows = torch.eye(sum(self.parts))[..., None, None]
        scales = (4, 8, -16, 1, 1)
        self.take = nn.ModuleList(convolution(scale * part, like=like)
                                  for scale, part in zip(scales, rows.split(self.parts)))

    def forward(self, maps: Tensor) -> list[Tensor]:
        gain, root_gain, roll_off, matrix, offset = (take(maps) for take in self.take)
        root_gain, roll_off = (x.relu() + (1 + (-x.abs()).exp()).log() for x in (root_gain, roll_off))
        return [(1 + gain.exp()).sqrt(), root_gain * 0.125, (-roll_off).exp(), matrix, offset]


class Recolouring(nn.Module):
    """`CompactMIRNet.recolour` with the matrix of `_colour`; a product with it is two convolutions with ones in them.

    The first copies the C colours to the C*C entries of the matrix, the second adds up its rows.
    """

    def __init__(self, channels: int, *, like: Tensor) -> None:
        super().__init__()
        unit = torch.eye(channels)[..., None, None]
        self.spread = convolution(unit.repeat(channels, 1, 1, 1), like=like)
        self.collect = convolution(unit.repeat_interleave(channels, 1), like=like)

    def forward(self, image: Tensor, root: Tensor, factors: Sequence[Tensor], brighter: Tensor | None = None) -> Tensor:
        """Return the recoloured picture; `brighter` is k of `CompactMIRNet.recolour`, None for 1."""
        gain, root_gain, roll_off, matrix, offset = factors
        if brighter is not None:
            gain, root_gain, offset = brighter * gain, brighter * root_gain, brighter * offset
        raised = gain * image + root_gain * root
        highest = raised.amax(1, keepdim=True)
        divisor = torch.maximum(1 + roll_off * (gain + root_gain - 1) * image.amax(1, keepdim=True), highest)
        raised, highest = raised / divisor, highest / divisor
        return raised + (1 - highest) * (self.collect(matrix * self.spread(raised)) + offset)


class DeployableDetail(nn.Module):
    """`DetailNetwork` of a bright picture and of the roots of the dark one: two tensors (1, C, H, W) -> the change."""

    def __init__(self, detail: DetailNetwork, size: MapSize) -> None:
        super().__init__()
        net: Any = copy.deepcopy(detail).requires_grad_(False).eval()
        half = None if size is None else (size[0] // BLOCK, size[1] // BLOCK)
        *blocks, last = net.body[0].body
        self.conv_in = over_blocks(net.conv_in, BLOCK)
        self.body = nn.Sequential(*[DeployableMSRB(block, half) for block in blocks], last)
        self.conv_out = by_phase(net.conv_out)

    def forward(self, bright: Tensor, root: Tensor) -> Tensor:
        x = self.conv_in(torch.cat([bright, root], 1))
        return DepthToSpace.apply(self.conv_out(x + self.body(x)))


class DeployableMSRB(nn.Module):
    """A multi-scale residual block of any number of streams; see `compact.ParallelStreams`."""

    def __init__(self, block: CompactMSRB, size: MapSize) -> None:
        super().__init__()
        self.fused, self.conv_out = FusedStreams(block, size), block.conv_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_out(self.fused(x))
