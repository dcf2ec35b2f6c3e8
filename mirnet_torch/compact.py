"""Compact MIRNets: they predict colour maps on a coarse grid and apply them to the image.

    cells = to_core(image)            every cell of 5x5 pixels becomes one position with 75 channels
    maps  = core(cells)               conv_in -> RRG of one MSRB -> conv_out: 15 maps
    image = restore(image, maps)      the maps, enlarged, are a brightness curve and a colour transform for every pixel

The MSRB has the four elements of the published network (`model.py`) in a form for integer kernels: two parallel
streams; exchange (the coarse stream starts from the output of the fine stream's DAU, the SKFF at the end takes both);
dual attention; selective fusion. Every activation and gate is piecewise linear. So a network for one camera frame fits
a Cortex-M4 (`mcu`). `weights/DESIGNS.md` says what each part gains, as measured.

Words: a *cell* is the square of pixels that becomes one position. The *core* is the part that is exported. The *maps*
are its output. `restore` is not part of the core, because it needs all 8 bits of a pixel.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Sequence, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mirnet_torch.model import DAU, RRG, Resample, conv_same, pad_image, require_integers, total


@dataclass(frozen=True)
class CompactConfig:
    """The shape of a compact MIRNet. The defaults are `mcu`.

    Raises:
        ValueError: a value is out of range; the message names the field.
    """

    in_channels: int = 3
    cell: int = 5  # pixels along the side of a cell
    widths: tuple[int, int] = (16, 24)  # channels of the two streams, the finer first

    def __post_init__(self) -> None:
        require_integers(self, in_channels=(1, 64), cell=(1, 16))
        widths = self.widths
        if not isinstance(widths, (tuple, list)) or len(widths) != 2 or \
                not all(type(width) is int and 8 <= width <= 4096 for width in widths):
            raise ValueError(f"widths must be two integers from 8 to 4096, not {widths!r}")
        object.__setattr__(self, "widths", tuple(widths))  # JSON knows lists only

    @property
    def maps(self) -> int:
        """Channels of the core's output for C colours: 3 of the curve, C tints, C (C - 1) shares, C offsets."""
        return 3 + self.in_channels * (self.in_channels + 1)

    @property
    def multiple(self) -> int:
        """The network pads both sides of an image to a multiple of this many pixels."""
        return 2 * self.cell

    @property
    def features_per_pixel(self) -> float:
        """Channels of the largest feature maps for every pixel of the image: what memory grows with."""
        return self.widths[0] / self.cell ** 2

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values; `presets.config_from_dict` is the way back."""
        return {"network": "compact", "head": "curve", **asdict(self), "widths": list(self.widths)}


class ProjectedSpatialAttention(nn.Module):
    """Spatial attention: the weight of a position is a convolution over all channels.

    It can learn the mean that the paper takes. It avoids the maximum over channels, which has no fast integer kernel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.spatial(x))


class PeakChannelAttention(nn.Module):
    """Channel attention from the mean and the peak of every channel: a peak shows how bright the lights are.

    Source of the second descriptor: Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018, section 3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(channels // 4, 4)
        self.conv_du = nn.Sequential(nn.Conv2d(2 * channels, squeezed, 1), nn.ReLU(),
                                     nn.Conv2d(squeezed, channels, 1), nn.Hardsigmoid())

    def forward(self, x: Tensor) -> Tensor:
        described = torch.cat([x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)], 1)  # (B, 2C, 1, 1)
        return x * self.conv_du(described)


class HardSKFF(nn.Module):
    """SKFF of two streams. A softmax of two is a sigmoid of their difference; here it is a hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(channels // 8, 4)
        self.conv_du = nn.Sequential(nn.Conv2d(channels, squeezed, 1, bias=False), nn.ReLU())
        self.fcs = nn.ModuleList(nn.Conv2d(squeezed, channels, 1, bias=False) for _ in range(2))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        squeezed = self.conv_du((first + second).mean((2, 3), keepdim=True))
        score, other = (fc(squeezed) for fc in self.fcs)
        weight = F.hardsigmoid(score - other)  # (B, C, 1, 1)
        return weight * first + (1 - weight) * second


class CompactMSRB(nn.Module):
    """Multi-scale residual block in one column: information goes down from stream to stream once, and up once.

    Args:
        widths: channels of the streams, the finest first; each stream has half the resolution of the one before.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        # The names, and the lists of one item, are those of `model.MSRB`, so that state dicts keep their rows.
        self.blocks = nn.ModuleList(
            nn.ModuleList([DAU(width, nn.ReLU(), ProjectedSpatialAttention(width), PeakChannelAttention(width))])
            for width in widths)
        steps = list(zip(widths, widths[1:]))
        # Enlarging comes after the projection, which then is a quarter of the work.
        self.last_up = nn.ModuleDict({
            str(j): Resample(nn.Sequential(nn.Conv2d(coarse, fine, 1, bias=False),
                                           nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)))
            for j, (fine, coarse) in enumerate(steps, start=1)})
        # Kernels as large as their stride need no padding.
        self.down = nn.ModuleDict({
            f"{fine}_2": Resample(nn.Sequential(nn.Conv2d(fine, coarse, 2, stride=2, bias=False)))
            for fine, coarse in steps})
        self.conv_out = conv_same(widths[0], 1, bias=True)
        self.selective_kernel = nn.ModuleList(HardSKFF(fine) for fine, _ in steps)

    def forward(self, x: Tensor) -> Tensor:
        (of_finest,), *others = cast(Any, self.blocks)
        streams = [of_finest(x)]
        for down, (of_stream,) in zip(self.down.values(), others):
            streams.append(of_stream(down(streams[-1])))
        result = streams.pop()
        for up, fuse in reversed(list(zip(self.last_up.values(), self.selective_kernel))):
            result = fuse(streams.pop(), up(result))
        return x + self.conv_out(result)


class CompactMIRNet(nn.Module):
    """A network that predicts colour maps: a dark image in, the restored image out.

    Args:
        config: the network's shape; that of `mcu` by default.

    Shape:
        (B, in_channels, H, W) -> the same, for any H and W from 1 up; RGB (or grey) in [0, 1]. The output is not
        clamped, so that a loss has a gradient everywhere.
    """

    def __init__(self, config: CompactConfig = CompactConfig()) -> None:
        super().__init__()
        self.config = config
        fine = config.widths[0]
        self.conv_in = nn.Conv2d(config.in_channels * config.cell ** 2, fine, 1)
        self.body = nn.Sequential(RRG(CompactMSRB(config.widths), conv_same(fine, 1)))
        self.conv_out = nn.Conv2d(fine, config.maps, 1)

    @property
    def multiple(self) -> int:
        """`to_core` takes sides that are multiples of this many pixels."""
        return self.config.multiple

    def forward(self, image: Tensor, *, exposure: float = 0.0) -> Tensor:
        height, width = image.shape[-2:]
        padded = pad_image(image, self.config.in_channels, self.multiple)
        return self.restore(padded, self.core(self.to_core(padded)), exposure=exposure)[..., :height, :width]

    def to_core(self, image: Tensor) -> Tensor:
        """Turn pixels into cells of their square roots: (B, C, H, W) -> (B, C * cell**2, H / cell, W / cell).

        Roots spread dark levels, which carry what there is to see: more of the 256 input codes of a microcontroller.
        """
        return F.pixel_unshuffle(image.clamp(min=0).sqrt(), self.config.cell)

    def core(self, cells: Tensor) -> Tensor:
        """Turn cells into maps (B, 3 + C (C + 1), H / cell, W / cell). This is what is exported."""
        return self.conv_out(self.body(self.conv_in(cells)))

    def restore(self, image: Tensor, maps: Tensor, *, exposure: float = 0.0) -> Tensor:
        """Return the restored image, of the shape of `image`, which is the one that the core saw.

        Of a photograph the core may see a copy instead: `full_size.restore_full_size`.
        """
        with torch.autocast(image.device.type, enabled=False):  # bfloat16 has 8 bits, too few for a gain
            factors = self.factors(maps.to(torch.promote_types(maps.dtype, image.dtype)))
            return self.recolour(image, enlarged(factors, self.config.cell), exposure=exposure)

    def factors(self, maps: Tensor) -> Tensor:
        """Turn maps into factors, position by position: (B, 3 + C (C + 1), H, W) -> the same.

        They are, for C colours, a gain from 1 up, a root gain from 0 up, a roll-off from 0 to 1, then C tints,
        C (C - 1) shares and C offsets. The first three are smooth functions, so none can stop learning as a ReLU can,
        and a microcontroller has a table for each. All maps have about the same range, since they share one int8 scale.
        """
        channels = self.config.in_channels
        gain, root_gain, roll_off, change, offset = maps.split([1, 1, 1, channels * channels, channels], 1)
        return torch.cat([(F.softplus(4 * gain) / 2).exp(), F.softplus(8 * root_gain) / 8, (16 * roll_off).sigmoid(),
                          change, offset / 2], 1)

    def recolour(self, image: Tensor, factors: Tensor, *, exposure: float = 0.0) -> Tensor:
        """Apply to every pixel of (B, C, H, W) its own factors, (B, 3 + C (C + 1), H, W).

        A pixel with channels I[c] and the largest channel M is first raised along one curve, the same for all channels:

            u(x) = k (gain x + root_gain sqrt(x)),  k = 2 ** (exposure / 2.2)
            r[c] = u(I[c]) / max(1 + roll_off (k (gain + root_gain) - 1) M, u(M))

        then its colour changes, the less the brighter it has become; m is the largest r[c]:

            out[c] = r[c] + (1 - m) (tint[c] r[c] + k offset[c] + the sum over d of share[c, d] (r[d] - r[c]))

        So light stays light: one divisor for all channels keeps hue, no r exceeds 1, no pixel gets darker by the
        curve, and white stays white. The root brightens the darkest levels of a cell more than the others. They need
        it, because the transfer curve of a camera is a straight line there.

        Args:
            image: the dark image, in [0, 1].
            factors: see `factors`.
            exposure: in EV, from -4 to 4: how much brighter than the network's own choice; 2.2 is a display's gamma.
        """
        channels, brighter = self.config.in_channels, 2.0 ** (exposure / 2.2)
        gain, root_gain, roll_off, tint, shares, offset = factors.split(
            [1, 1, 1, channels, channels * (channels - 1), channels], 1)
        gain, root_gain = brighter * gain, brighter * root_gain
        raised = gain * image + root_gain * image.clamp(min=0).sqrt()
        highest = raised.amax(1, keepdim=True)
        divisor = (1 + roll_off * (gain + root_gain - 1) * image.amax(1, keepdim=True)).maximum(highest)
        raised, highest = raised / divisor, highest / divisor
        change = tint * raised + brighter * offset
        changes = []
        for c, row in enumerate(shares.unflatten(1, (channels, channels - 1)).unbind(1)):
            others = [raised[:, d] for d in range(channels) if d != c]
            mixed = [share * (other - raised[:, c]) for share, other in zip(row.unbind(1), others)]
            changes.append(total([change[:, c], *mixed]))
        return raised + (1 - highest) * torch.stack(changes, 1)


def enlarged(maps: Tensor, factor: int) -> Tensor:
    """Enlarge (B, C, H, W) as bilinear `F.interpolate` does, by two matrix products: a training is a third faster."""
    rows, columns = (F.interpolate(torch.eye(side, dtype=maps.dtype, device=maps.device)[None], scale_factor=factor,
                                   mode="linear", align_corners=False)[0] for side in maps.shape[-2:])
    return rows.T @ (maps @ columns)
