"""The published MIRNet in one file: its configuration, its blocks, the network.

Source: Zamir et al., "Learning Enriched Features for Real Image Restoration and Enhancement", ECCV 2020
(arXiv 2003.06792), sections 3.1 to 3.4. With a default configuration this is the published network, state dict
included: the same rows, order, shapes and shared storage, so checkpoints in the published format load unchanged.

One departure: any height and width works. The image is padded at its right and bottom edges and the result is cropped.

Shapes: B images, C channels, H x W pixels, k parallel streams; stream j has n_feat * 2**j channels at 1 / 2**j of the
resolution. Small networks built from the same blocks are in `compact.py`.
"""
from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import Any, Sequence, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class MIRNetConfig:
    """The arguments of the published constructor, by the same names. The defaults are the published network.

    Raises:
        ValueError: a value is out of range; the message names the field.
    """

    in_channels: int = 3
    out_channels: int = 3  # equal to in_channels: the network adds its output to the image
    n_feat: int = 64  # channels of stream 0
    kernel_size: int = 3  # of the first and the last convolution only
    stride: int = 2  # factor from one stream's channels to the next; the published code works with 2 only
    n_RRG: int = 3  # recursive residual groups
    n_MSRB: int = 2  # multi-scale residual blocks in each group
    height: int = 3  # parallel streams
    width: int = 2  # columns of the grid in one MSRB; every column uses the same DAUs
    bias: bool = False  # of conv_in, conv_out and each MSRB's conv_out

    def __post_init__(self) -> None:
        require_integers(self, in_channels=(1, 64), out_channels=(1, 64), n_feat=(8, 4096), kernel_size=(1, 31),
                         stride=(2, 2), n_RRG=(1, 64), n_MSRB=(1, 64), height=(1, 6), width=(1, 64))
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, so that a convolution keeps the size, not {self.kernel_size}")
        if self.in_channels != self.out_channels:
            raise ValueError(f"out_channels must equal in_channels ({self.in_channels}), not {self.out_channels}: "
                             "the network adds its output to the image")
        if not isinstance(self.bias, bool):
            raise ValueError(f"bias must be True or False, not {self.bias!r}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every stream, the full resolution first."""
        return tuple(self.n_feat * self.stride ** j for j in range(self.height))

    @property
    def multiple(self) -> int:
        """The network pads both sides of an image to a multiple of this many pixels."""
        return 2 ** (self.height - 1)

    @property
    def features_per_pixel(self) -> float:
        """Channels of the largest feature maps for every pixel of the image: what memory grows with."""
        return self.n_feat

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values; `presets.config_from_dict` is the way back."""
        return {"network": "mirnet", **asdict(self)}


def require_integers(config: Any, **ranges: tuple[int, int]) -> None:
    """Raise a ValueError that names the field unless every field is an integer in its range (both ends included)."""
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            allowed = f"{low}" if low == high else f"an integer from {low} to {high}"
            raise ValueError(f"{name} must be {allowed}, not {value!r}")


class SpatialAttention(nn.Module):
    """Spatial attention (paper: 3.3, SA): one weight per position, from the maximum and the mean over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.Sequential(OrderedDict(conv=nn.Conv2d(2, 1, 5, padding=2, bias=False)))

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)  # (B, 2, H, W)
        return x * self.spatial(pooled).sigmoid()


class ChannelAttention(nn.Module):
    """Channel attention (paper: 3.3, CA): one weight per channel, from its mean over all positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = channels // 8
        self.conv_du = nn.Sequential(nn.Conv2d(channels, squeezed, 1, bias=False), nn.ReLU(),
                                     nn.Conv2d(squeezed, channels, 1, bias=False), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv_du(x.mean((2, 3), keepdim=True))  # (B, C, 1, 1)


class DAU(nn.Module):
    """Dual attention unit (paper: 3.3): two convolutions, then spatial and channel attention side by side."""

    def __init__(self, channels: int, activation: nn.Module, spatial: nn.Module, channel: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_same(channels), activation, conv_same(channels))
        self.SA, self.CA = spatial, channel
        self.conv1x1 = nn.Conv2d(2 * channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        attended = torch.cat([self.SA(features), self.CA(features)], 1)  # (B, 2C, H, W)
        return x + self.conv1x1(attended)


class SKFF(nn.Module):
    """Selective kernel feature fusion (paper: 3.2): the sum of streams, each channel weighted by attention."""

    def __init__(self, channels: int, streams: int) -> None:
        super().__init__()
        squeezed = max(channels // 8, 4)
        self.conv_du = nn.Sequential(nn.Conv2d(channels, squeezed, 1, bias=False), nn.PReLU())
        self.fcs = nn.ModuleList(nn.Conv2d(squeezed, channels, 1, bias=False) for _ in range(streams))

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        squeezed = self.conv_du(total(streams).mean((2, 3), keepdim=True))
        weights = torch.stack([fc(squeezed) for fc in self.fcs]).softmax(0)  # (k, B, C, 1, 1)
        return total([weight * stream for weight, stream in zip(weights, streams)])


class BlurDown(nn.Module):
    """Halve both sides: a fixed binomial 3x3 filter with stride 2, so that nothing aliases (Zhang, ICML 2019)."""

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("filt", torch.outer(row, row).expand(channels, 1, 3, 3).clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.filt, stride=2, groups=x.shape[1])


class ResidualDown(nn.Module):
    """Residual downsampling (paper: 3.4): (B, C, H, W) -> (B, 2C, H/2, W/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.top = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.PReLU(),
                                 conv_same(channels), nn.PReLU(), BlurDown(channels),
                                 nn.Conv2d(channels, 2 * channels, 1, bias=False))
        self.bot = nn.Sequential(BlurDown(channels), nn.Conv2d(channels, 2 * channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.top(x) + self.bot(x)


class ResidualUp(nn.Module):
    """Residual upsampling (paper: 3.4): (B, C, H, W) -> (B, C/2, 2H, 2W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        double = nn.ConvTranspose2d(channels, channels, 3, stride=2, padding=1, output_padding=1, bias=False)
        self.top = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.PReLU(), double, nn.PReLU(),
                                 nn.Conv2d(channels, channels // 2, 1, bias=False))
        self.bot = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                                 nn.Conv2d(channels, channels // 2, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.top(x) + self.bot(x)


class Resample(nn.Module):
    """Resample a stream to the resolution of another one, by a factor of two in each step."""

    def __init__(self, *steps: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*steps)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class MSRB(nn.Module):
    """Multi-scale residual block (paper: 3.1): parallel streams that exchange information after every column.

    A coarser stream starts from the output of the finer stream's DAU, downsampled.
    """

    def __init__(self, config: MIRNetConfig, activation: nn.Module) -> None:
        super().__init__()
        self.widths, self.columns = config.widths, config.width
        k = config.height
        # One DAU per stream, listed once per column: all columns share their weights.
        self.blocks = nn.ModuleList(
            nn.ModuleList([DAU(width, activation, SpatialAttention(), ChannelAttention(width))] * config.width)
            for width in self.widths)
        self.last_up = nn.ModuleDict({str(j): self._path(j, 0) for j in range(1, k)})
        # One module per pair of streams, named after its input channels and its factor.
        downs = [(s, j) for s in range(k - 1) for j in range(k - 1, s, -1)]
        ups = [(s, j) for s in range(k - 1, 0, -1) for j in range(s)]
        self.down, self.up = (nn.ModuleDict({self._key(*pair): self._path(*pair) for pair in pairs})
                              for pairs in (downs, ups))
        self.conv_out = conv_same(self.widths[0], bias=config.bias)
        self.selective_kernel = nn.ModuleList(SKFF(width, k) for width in self.widths)

    def _path(self, source: int, target: int) -> Resample:
        if source < target:
            return Resample(*[ResidualDown(width) for width in self.widths[source:target]])
        return Resample(*[ResidualUp(width) for width in self.widths[source:target:-1]])

    def _key(self, source: int, target: int) -> str:
        return f"{self.widths[source]}_{2 ** abs(target - source)}"

    def resampler(self, source: int, target: int) -> nn.Module:
        """Return the module that resamples a stream to the resolution of another one between columns."""
        return (self.down if source < target else self.up)[self._key(source, target)]

    def _bring(self, stream: Tensor, source: int, target: int) -> Tensor:
        return stream if source == target else self.resampler(source, target)(stream)

    def forward(self, x: Tensor) -> Tensor:
        blocks = cast(Sequence[Sequence[nn.Module]], self.blocks)
        streams = [blocks[0][0](x)]
        for j in range(1, len(self.widths)):
            streams.append(blocks[j][0](self._bring(streams[j - 1], j - 1, j)))
        for column in range(1, self.columns):
            fused = [fuse([self._bring(stream, s, j) for s, stream in enumerate(streams)])
                     for j, fuse in enumerate(self.selective_kernel)]
            streams = [blocks[j][column](stream) for j, stream in enumerate(fused)]
        full = streams[:1] + [self.last_up[str(j)](streams[j]) for j in range(1, len(streams))]
        return x + self.conv_out(self.selective_kernel[0](full))


class RRG(nn.Module):
    """Recursive residual group (paper: 3): some MSRBs and a convolution, with a skip connection around them."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class MIRNet(nn.Module):
    """The published network: a dark image in, the restored image out.

    Shape:
        (B, in_channels, H, W) -> the same, for any H and W from 1 up; RGB (or grey) in [0, 1], not clamped.
    """

    def __init__(self, config: MIRNetConfig = MIRNetConfig()) -> None:
        super().__init__()
        self.config = config
        n, padding = config.n_feat, config.kernel_size // 2
        activation = nn.PReLU()  # one slope for all DAUs of the network
        self.conv_in = nn.Conv2d(config.in_channels, n, config.kernel_size, padding=padding, bias=config.bias)
        self.body = nn.Sequential(*[RRG(*[MSRB(config, activation) for _ in range(config.n_MSRB)], conv_same(n))
                                    for _ in range(config.n_RRG)])
        self.conv_out = nn.Conv2d(n, config.out_channels, config.kernel_size, padding=padding, bias=config.bias)

    @property
    def multiple(self) -> int:
        """`core` takes sides that are multiples of this many pixels."""
        return self.config.multiple

    def forward(self, image: Tensor) -> Tensor:
        padded = pad_image(image, self.config.in_channels, self.multiple)
        return self.restore(padded, self.core(self.to_core(padded)))[..., :image.shape[-2], :image.shape[-1]]

    def to_core(self, image: Tensor) -> Tensor:
        """Return the input of `core` for an image: the image itself."""
        return image

    def core(self, image: Tensor) -> Tensor:
        """Return the restored image. This is what is exported; both sides are multiples of `multiple`."""
        return image + self.conv_out(self.body(self.conv_in(image)))

    def restore(self, image: Tensor, output: Tensor) -> Tensor:
        """Return the restored image, given an image and the output of `core` for it: the output itself."""
        return output


def pad_image(image: Tensor, channels: int, multiple: int) -> Tensor:
    """Repeat the last row and column of (B, channels, H, W) until both sides are multiples of `multiple`.

    Raises:
        ValueError: the tensor has another shape.
    """
    if image.ndim != 4 or image.shape[1] != channels or 0 in image.shape:
        raise ValueError(f"MIRNet takes a tensor of shape (B, {channels}, H, W), not {tuple(image.shape)}")
    bottom, right = (-side % multiple for side in image.shape[-2:])
    return F.pad(image, (0, right, 0, bottom), mode="replicate") if bottom or right else image


def conv_same(channels: int, kernel_size: int = 3, *, bias: bool = False) -> nn.Conv2d:
    """Return a convolution that keeps channels and size."""
    return nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, bias=bias)


def total(tensors: Sequence[Tensor]) -> Tensor:
    """Sum tensors in their order, starting with the first, so that rounding is that of the published network."""
    result = tensors[0]
    for tensor in tensors[1:]:
        result = result + tensor
    return result


def parameter_count(model: nn.Module) -> int:
    """Count a model's parameters, shared ones once."""
    return sum(math.prod(p.shape) for p in model.parameters())
