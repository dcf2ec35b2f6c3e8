"""MIRNet in one file: configuration, presets and the network.

Source: Zamir et al., "Learning Enriched Features for Real Image Restoration and Enhancement", ECCV 2020
(arXiv 2003.06792), sections 3.1 to 3.3. With a default configuration this is the published network, state dict
included: the same rows, order, shapes and shared storage, so published-format checkpoints load unchanged.

Where it departs from the published network:

* any height and width works: the image is padded at its right and bottom edge and the result cropped;
* fields of `MIRNetConfig` after `bias` describe smaller networks for microcontrollers; their defaults are the paper's.

Notation in shapes: B images, C channels, H x W pixels, k parallel streams; stream j has widths[j] channels at
1 / 2**j of the resolution.
"""
from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import Any, Callable, Sequence, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = ("prelu", "relu")
GATES = ("sigmoid", "hard_sigmoid")
RESAMPLERS = ("residual", "plain")
HEADS = ("residual", "affine")
ATTENTIONS = ("dual", "peak", "none")
FUSIONS = ("selective", "mean")
EXCHANGES = ("full", "down", "none")
LOG_GAIN_SCALE = 4.0  # log gain = 4 * map: a gain of 1/e**4 to e**4 and an offset of -1 to 1 share the range [-1, 1]


@dataclass(frozen=True)
class MIRNetConfig:
    """Everything that fixes the shape of a MIRNet. The defaults are the published network.

    The first ten fields are the published constructor arguments, by the same names.

    Raises:
        ValueError: a field has a value no network can be built from; the message names the field.
    """

    in_channels: int = 3
    out_channels: int = 3  # equal to in_channels: the network adds its output to the image
    n_feat: int = 64  # channels of stream 0
    kernel_size: int = 3  # of the first and the last convolution only
    stride: int = 2  # factor from one stream's channels to the next; published code works with 2 only
    n_RRG: int = 3  # recursive residual groups
    n_MSRB: int = 2  # multi-scale residual blocks in each group
    height: int = 3  # parallel streams
    width: int = 2  # columns of the grid in one MSRB; every column uses the same DAUs
    bias: bool = False  # of conv_in, conv_out and each MSRB's conv_out
    # What follows is not in the paper: it makes networks that fit a microcontroller.
    shuffle: int = 1  # space-to-depth factor at the entry: the network works at 1/shuffle of the resolution
    widths: tuple[int, ...] | None = None  # channels of every stream; None: n_feat * stride**j
    activation: str = "prelu"  # or "relu", which integer kernels fuse into the convolution before it
    gate: str = "sigmoid"  # of both attentions and, with two streams, of SKFF; or "hard_sigmoid" (piecewise linear)
    exchange: str = "full"  # between columns; or, with one column, "down": of each stream to the next; or "none"
    resample: str = "residual"  # or "plain": one strided convolution down, one 1x1 convolution and bilinear up
    spatial_kernel: int = 5  # of the spatial attention
    tail_kernel: int = 3  # of the convolutions that end each MSRB and each RRG
    attention: str = "dual"  # of a DAU; or "peak", cheaper and sees peaks; "none", to see what it buys: the 1x1 alone
    fusion: str = "selective"  # SKFF; "mean", to see what it buys: the mean of the streams
    head: str = "residual"  # I + R with R an image; or "affine": I + R = A (g I + q sqrt(I)) + b by position

    def __post_init__(self) -> None:
        for name, low, high in (("in_channels", 1, 64), ("out_channels", 1, 64), ("n_feat", 8, 4096),
                                ("kernel_size", 1, 31), ("stride", 2, 2), ("n_RRG", 1, 64), ("n_MSRB", 1, 64),
                                ("height", 1, 6), ("width", 1, 64), ("shuffle", 1, 16), ("spatial_kernel", 1, 31),
                                ("tail_kernel", 1, 31)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                allowed = f"{low}" if low == high else f"an integer from {low} to {high}"
                raise ValueError(f"{name} must be {allowed}, not {value!r}")
        for name in ("kernel_size", "spatial_kernel", "tail_kernel"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} must be odd, so that a convolution keeps the size, not {getattr(self, name)}")
        if self.in_channels != self.out_channels:
            raise ValueError(f"out_channels must equal in_channels ({self.in_channels}), not {self.out_channels}: "
                             "the network adds its output to the image")
        if not isinstance(self.bias, bool):
            raise ValueError(f"bias must be True or False, not {self.bias!r}")
        for name, choices in (("activation", ACTIVATIONS), ("gate", GATES), ("resample", RESAMPLERS),
                              ("attention", ATTENTIONS), ("fusion", FUSIONS), ("exchange", EXCHANGES), ("head", HEADS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
        if self.exchange != "full" and self.width != 1:
            raise ValueError(f"width must be 1 with exchange={self.exchange!r}, not {self.width}")
        if self.widths is not None:
            self._check_widths()

    def _check_widths(self) -> None:
        widths = self.widths
        if not isinstance(widths, (tuple, list)) or not all(type(w) is int and 8 <= w <= 65536 for w in widths):
            raise ValueError(f"widths must be a tuple of integers from 8 up, not {widths!r}")
        object.__setattr__(self, "widths", tuple(widths))  # JSON knows lists only
        if len(widths) != self.height or widths[0] != self.n_feat or any(a >= b for a, b in zip(widths, widths[1:])):
            raise ValueError(f"widths must be {self.height} (height) growing numbers starting with "
                             f"{self.n_feat} (n_feat), not {tuple(widths)}")
        if self.resample == "residual" and any(b != 2 * a for a, b in zip(widths, widths[1:])):
            raise ValueError(f"widths must double from stream to stream with resample='residual', not {tuple(widths)}")

    @property
    def stream_widths(self) -> tuple[int, ...]:
        """Channels of every stream, the full resolution first."""
        return self.widths or tuple(self.n_feat * self.stride ** j for j in range(self.height))

    @property
    def multiple(self) -> int:
        """The network pads both sides of an image to a multiple of this many pixels."""
        return self.shuffle * 2 ** (self.height - 1)

    @classmethod
    def preset(cls, name: str) -> MIRNetConfig:
        """Return a configuration of `PRESETS` by its name.

        Raises:
            ValueError: there is no such preset.
        """
        if name not in PRESETS:
            raise ValueError(f"there is no preset {name!r}; there are: {', '.join(PRESETS)}")
        return PRESETS[name]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary of JSON values; `MIRNetConfig(**fields)` is the way back."""
        return asdict(self)


PRESETS = {
    # The published network: 31,787,419 parameters, 480 GMAC for 256x256.
    "paper": MIRNetConfig(),
    # One 160x120 camera frame on a Cortex-M4: works on 32x24 positions, every activation and gate piecewise linear.
    "mcu": MIRNetConfig(n_feat=16, kernel_size=1, n_RRG=1, n_MSRB=1, height=2, width=1, bias=True, shuffle=5,
                        widths=(16, 24), activation="relu", gate="hard_sigmoid", exchange="down", resample="plain",
                        spatial_kernel=3, tail_kernel=1, attention="peak", head="affine"),
}


class SpatialAttention(nn.Module):
    """Spatial attention (paper: 3.3, SA): one weight per position, from the maximum and mean over channels."""

    def __init__(self, kernel_size: int, gate: nn.Module) -> None:
        super().__init__()
        conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.spatial = nn.Sequential(OrderedDict(conv=conv))
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)  # (B, 2, H, W)
        return x * self.gate(self.spatial(pooled))


class ChannelAttention(nn.Module):
    """Channel attention (paper: 3.3, CA): one weight per channel, from its mean over the whole map."""

    def __init__(self, channels: int, gate: nn.Module) -> None:
        super().__init__()
        squeezed = channels // 8
        self.conv_du = nn.Sequential(nn.Conv2d(channels, squeezed, 1, bias=False), nn.ReLU(),
                                     nn.Conv2d(squeezed, channels, 1, bias=False), gate)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv_du(x.mean((2, 3), keepdim=True))  # (B, C, 1, 1)


class ProjectedSpatialAttention(nn.Module):
    """Spatial attention for microcontrollers: the weight of a position is a convolution of all channels there.

    It can learn the mean that the paper takes, and spares the maximum over channels, which has no quick kernel.
    """

    def __init__(self, channels: int, kernel_size: int, gate: nn.Module) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.spatial(x))


class PeakChannelAttention(nn.Module):
    """Channel attention from the mean and the peak of every channel: how bright a scene is shows in its lights, too.

    Source of the second descriptor: Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018, section 3.
    """

    def __init__(self, channels: int, gate: nn.Module) -> None:
        super().__init__()
        squeezed = max(channels // 4, 4)
        self.conv_du = nn.Sequential(nn.Conv2d(2 * channels, squeezed, 1), nn.ReLU(),
                                     nn.Conv2d(squeezed, channels, 1), gate)

    def forward(self, x: Tensor) -> Tensor:
        described = torch.cat([x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)], 1)  # (B, 2C, 1, 1)
        return x * self.conv_du(described)


class DAU(nn.Module):
    """Dual attention unit (paper: 3.3): two convolutions, then spatial and channel attention side by side."""

    def __init__(self, channels: int, config: MIRNetConfig, activation: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv_same(channels), activation, _conv_same(channels))
        self.dual = config.attention != "none"
        if config.attention == "dual":
            self.SA: nn.Module = SpatialAttention(config.spatial_kernel, _gate(config))
            self.CA: nn.Module = ChannelAttention(channels, _gate(config))
        elif config.attention == "peak":
            self.SA = ProjectedSpatialAttention(channels, config.spatial_kernel, _gate(config))
            self.CA = PeakChannelAttention(channels, _gate(config))
        self.conv1x1 = nn.Conv2d(2 * channels if self.dual else channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        if self.dual:
            features = torch.cat([self.SA(features), self.CA(features)], 1)
        return x + self.conv1x1(features)


class SKFF(nn.Module):
    """Selective kernel feature fusion (paper: 3.2): a weighted sum of streams, weighed per channel by attention."""

    def __init__(self, channels: int, config: MIRNetConfig) -> None:
        super().__init__()
        squeezed = max(channels // 8, 4)
        self.conv_du = nn.Sequential(nn.Conv2d(channels, squeezed, 1, bias=False), _activation(config))
        self.fcs = nn.ModuleList(nn.Conv2d(squeezed, channels, 1, bias=False) for _ in range(config.height))
        self.hard = config.gate == "hard_sigmoid" and config.height == 2

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        squeezed = self.conv_du(_total(streams).mean((2, 3), keepdim=True))
        scores = torch.stack([fc(squeezed) for fc in self.fcs])  # (k, B, C, 1, 1)
        if self.hard:  # a two-way softmax is sigmoid(a - b); this is its piecewise linear form
            first = F.hardsigmoid(scores[0] - scores[1])
            weights = torch.stack([first, 1 - first])
        else:
            weights = scores.softmax(0)
        return _total([weight * stream for weight, stream in zip(weights, streams)])


class Mean(nn.Module):
    """What SKFF is without its attention: the mean of the streams."""

    def __init__(self, channels: int, config: MIRNetConfig) -> None:
        super().__init__()
        self.streams = config.height

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        return _total(streams) * (1 / self.streams)


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

    def __init__(self, in_channels: int, out_channels: int, config: MIRNetConfig) -> None:
        super().__init__()
        self.top = nn.Sequential(nn.Conv2d(in_channels, in_channels, 1, bias=False), _activation(config),
                                 _conv_same(in_channels), _activation(config), BlurDown(in_channels),
                                 nn.Conv2d(in_channels, out_channels, 1, bias=False))
        self.bot = nn.Sequential(BlurDown(in_channels), nn.Conv2d(in_channels, out_channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.top(x) + self.bot(x)


class ResidualUp(nn.Module):
    """Residual upsampling (paper: 3.4): (B, C, H, W) -> (B, C/2, 2H, 2W)."""

    def __init__(self, in_channels: int, out_channels: int, config: MIRNetConfig) -> None:
        super().__init__()
        double = nn.ConvTranspose2d(in_channels, in_channels, 3, stride=2, padding=1, output_padding=1, bias=False)
        self.top = nn.Sequential(nn.Conv2d(in_channels, in_channels, 1, bias=False), _activation(config), double,
                                 _activation(config), nn.Conv2d(in_channels, out_channels, 1, bias=False))
        self.bot = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                                 nn.Conv2d(in_channels, out_channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.top(x) + self.bot(x)


class PlainDown(nn.Sequential):
    """Downsampling for microcontrollers: one 2x2 convolution with stride 2, which needs no padding."""

    def __init__(self, in_channels: int, out_channels: int, config: MIRNetConfig) -> None:
        super().__init__(nn.Conv2d(in_channels, out_channels, 2, stride=2, bias=False))


class PlainUp(nn.Sequential):
    """Upsampling for microcontrollers: a 1x1 convolution at the small size, then bilinear."""

    def __init__(self, in_channels: int, out_channels: int, config: MIRNetConfig) -> None:
        super().__init__(nn.Conv2d(in_channels, out_channels, 1, bias=False),
                         nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))


class Resample(nn.Module):
    """Bring one stream to another's resolution in steps of two; `widths` lists the channels before and after each."""

    def __init__(self, step: Callable[[int, int, MIRNetConfig], nn.Module], widths: Sequence[int],
                 config: MIRNetConfig) -> None:
        super().__init__()
        self.body = nn.Sequential(*[step(a, b, config) for a, b in zip(widths, widths[1:])])

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class MSRB(nn.Module):
    """Multi-scale residual block (paper: 3.1): parallel streams that exchange information after every column.

    Before that, each stream begins with what the DAU of the finer one has made of it. With exchange="down" that, and
    the fusion at the end, is all: information goes down and up once, and there is no second column to pay for.
    """

    def __init__(self, config: MIRNetConfig, shared_activation: nn.Module) -> None:
        super().__init__()
        widths, k = config.stream_widths, config.height
        down, up = (ResidualDown, ResidualUp) if config.resample == "residual" else (PlainDown, PlainUp)
        # One DAU per stream, listed once per column: every column has the same weights.
        self.blocks = nn.ModuleList(
            nn.ModuleList([DAU(channels, config, shared_activation)] * config.width) for channels in widths)
        self.last_up = nn.ModuleDict({str(j): Resample(up, widths[j::-1], config) for j in range(1, k)})
        # One module per pair of streams, named by its channels at the entry and its factor.
        self.down = nn.ModuleDict({f"{widths[s]}_{2 ** (j - s)}": Resample(down, widths[s:j + 1], config)
                                   for s in range(k - 1) for j in range(k - 1, s, -1)})
        self.up = nn.ModuleDict({f"{widths[s]}_{2 ** (s - j)}": Resample(up, widths[s::-1][:s - j + 1], config)
                                 for s in range(k - 1, 0, -1) for j in range(s)})
        self.conv_out = _conv_same(widths[0], config.tail_kernel, bias=config.bias)
        fusion = SKFF if config.fusion == "selective" else Mean
        self.selective_kernel = nn.ModuleList(fusion(channels, config) for channels in widths)
        self.widths, self.columns, self.exchange = widths, config.width, config.exchange
        self.pairs = [(s, j) for s in range(k) for j in range(k) if s != j]  # of streams: from s something goes to j
        if config.exchange != "full":  # made, then left out: a seed gives the same weights whatever the exchange
            self.pairs = [(0 if config.exchange == "none" else j - 1, j) for j in range(1, k)]
            kept = {f"{widths[s]}_{2 ** (j - s)}" for s, j in self.pairs}
            self.down = nn.ModuleDict({name: path for name, path in self.down.items() if name in kept})
            self.up.clear()
            del self.selective_kernel[1:]

    def forward(self, x: Tensor) -> Tensor:
        blocks = cast(Sequence[Sequence[nn.Module]], self.blocks)
        streams = [blocks[0][0](x)]
        for j in range(1, len(self.widths)):
            begun = self._bring(x, 0, j) if self.exchange == "none" else self._bring(streams[j - 1], j - 1, j)
            streams.append(blocks[j][0](begun))
        for column in range(1, self.columns):
            fused = [fuse([self._bring(stream, s, j) for s, stream in enumerate(streams)])
                     for j, fuse in enumerate(self.selective_kernel)]
            streams = [blocks[j][column](stream) for j, stream in enumerate(fused)]
        full = streams[:1] + [self.last_up[str(j)](streams[j]) for j in range(1, len(streams))]
        return x + self.conv_out(self.selective_kernel[0](full))

    def _bring(self, stream: Tensor, source: int, target: int) -> Tensor:
        return stream if source == target else self.resampler(source, target)(stream)

    def resampler(self, source: int, target: int) -> nn.Module:
        """Return what brings one stream to another's resolution before the end; `pairs` lists those there are."""
        resamplers = self.down if source < target else self.up
        return resamplers[f"{self.widths[source]}_{2 ** abs(target - source)}"]


class RRG(nn.Module):
    """Recursive residual group (paper: 3): some MSRBs and a convolution, around them a skip."""

    def __init__(self, config: MIRNetConfig, shared_activation: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*[MSRB(config, shared_activation) for _ in range(config.n_MSRB)],
                                  _conv_same(config.n_feat, config.tail_kernel))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class MIRNet(nn.Module):
    """The network: a dark image in, the restored image out.

    Args:
        config: the network's shape; the published one by default.

    Shape:
        (B, in_channels, H, W) -> the same, for any H and W from 1 up; RGB (or grey) in [0, 1]. The output is not
        clamped, so that a loss has a gradient everywhere.
    """

    def __init__(self, config: MIRNetConfig = PRESETS["paper"]) -> None:
        super().__init__()
        self.config = config
        padding, cells = config.kernel_size // 2, config.shuffle ** 2
        heads = {"residual": config.out_channels * cells, "affine": config.out_channels * (config.out_channels + 2)}
        shared_activation = _activation(config)  # one slope for all the DAUs of the network
        self.conv_in = nn.Conv2d(config.in_channels * cells, config.n_feat, config.kernel_size, padding=padding,
                                 bias=config.bias)
        self.body = nn.Sequential(*[RRG(config, shared_activation) for _ in range(config.n_RRG)])
        self.conv_out = nn.Conv2d(config.n_feat, heads[config.head], config.kernel_size, padding=padding,
                                  bias=config.bias)

    def forward(self, image: Tensor) -> Tensor:
        if image.ndim != 4 or image.shape[1] != self.config.in_channels or 0 in image.shape:
            raise ValueError(f"MIRNet takes a tensor of shape (B, {self.config.in_channels}, H, W), "
                             f"not {tuple(image.shape)}")
        height, width = image.shape[-2:]
        bottom, right = (-side % self.config.multiple for side in (height, width))
        padded = F.pad(image, (0, right, 0, bottom), mode="replicate") if bottom or right else image
        return self.apply_maps(padded, self.maps(padded))[..., :height, :width]

    def maps(self, image: Tensor) -> Tensor:
        """Return what the last convolution computes, (B, maps, H/shuffle, W/shuffle); H, W multiples of `multiple`."""
        features = self.conv_in(F.pixel_unshuffle(image, self.config.shuffle))
        return self.conv_out(self.body(features))

    def apply_maps(self, image: Tensor, maps: Tensor) -> Tensor:
        """Return the restored image I + R, where R follows from `maps`; the shape is that of `image`.

        With head="affine" the maps are, for C channels, C log gains, C (C - 1) shares, C offsets and C root gains,
        bilinearly upsampled: output c is r[c] + the sum over the others d of share[c, d] * r[d] + offset[c], with
        r = gain * image + root_gain * sqrt(image). The root lifts the darkest levels of a cell more than its others, as
        they need: there the 8-bit curve of a camera is straight.
        """
        config, channels = self.config, image.shape[1]
        if config.head == "residual":
            return image + F.pixel_shuffle(maps, config.shuffle)
        with torch.autocast(image.device.type, enabled=False):  # a gain of 8 bits would show in the picture
            maps = maps.to(torch.promote_types(maps.dtype, image.dtype))
            maps = torch.cat([(LOG_GAIN_SCALE * maps[:, :channels]).exp(), maps[:, channels:]], 1)
            gain, shares, offset, root_gain = _enlarged(maps, config.shuffle).split(
                [channels, channels * (channels - 1), channels, channels], 1)
            raised = gain * image + root_gain * image.clamp(min=0).sqrt()
            restored = []
            for c, row in enumerate(shares.unflatten(1, (channels, channels - 1)).unbind(1)):
                others = [raised[:, d] for d in range(channels) if d != c]
                mixed = [share * other for share, other in zip(row.unbind(1), others)]
                restored.append(_total([raised[:, c], *mixed, offset[:, c]]))
            return torch.stack(restored, 1)


def _enlarged(maps: Tensor, factor: int) -> Tensor:
    """Enlarge (B, C, H, W) as bilinear `F.interpolate` does, by two matrix products: a training is a third quicker."""
    rows, columns = (F.interpolate(torch.eye(side, dtype=maps.dtype, device=maps.device)[None], scale_factor=factor,
                                   mode="linear", align_corners=False)[0] for side in maps.shape[-2:])
    return rows.T @ (maps @ columns)


def _conv_same(channels: int, kernel_size: int = 3, *, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, bias=bias)


def _activation(config: MIRNetConfig) -> nn.Module:
    return nn.PReLU() if config.activation == "prelu" else nn.ReLU()


def _gate(config: MIRNetConfig) -> nn.Module:
    return nn.Sigmoid() if config.gate == "sigmoid" else nn.Hardsigmoid()


def _total(tensors: Sequence[Tensor]) -> Tensor:
    """Sum a sequence in its order, from the first on: as the published network rounds."""
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


def parameter_count(model: nn.Module) -> int:
    """Count a model's parameters, shared ones once."""
    return sum(math.prod(p.shape) for p in model.parameters())
