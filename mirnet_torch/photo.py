"""`photo`: a MIRNet for photographs. A compact network sets light and colour, a second one removes noise.

    bright = restore of compact.py         colour maps on a coarse grid, laid over every pixel
    image  = bright + detail(dark, bright)  what two pixels a side show together: noise, edges

The detail network sees blocks of 2x2 pixels as one position, of the bright picture and of the roots of the dark one;
together they tell how much each pixel was raised, and so how noisy it is. It has the four elements of the published
network: three parallel streams, exchange, dual attention, selective fusion, in recursive residual groups, built from
the blocks of `compact.py`. Before training its output is zero, so an untrained `photo` with the colour maps of `mcu`
does what `mcu` does.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mirnet_torch.compact import CompactConfig, CompactMIRNet, CompactMSRB
from mirnet_torch.model import RRG, conv_same, pad_image, require_integers

BLOCK = 2  # pixels along the side of a position of the detail network


@dataclass(frozen=True)
class PhotoConfig(CompactConfig):
    """The shape of a MIRNet for photographs. The defaults are `photo`; the fields of `CompactConfig` are its colours.

    Raises:
        ValueError: a value is out of range; the message names the field.
    """

    detail: tuple[int, ...] = (32, 48, 64)  # channels of the detail network's streams, the finest first
    n_MSRB: int = 2  # its multi-scale residual blocks

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integers(self, n_MSRB=(1, 64))
        detail = self.detail
        if not isinstance(detail, (tuple, list)) or not 2 <= len(detail) <= 6 or \
                not all(type(width) is int and 8 <= width <= 4096 for width in detail) or \
                list(detail) != sorted(set(detail)):
            raise ValueError(f"detail must be two to six rising integers from 8 to 4096, not {detail!r}")
        object.__setattr__(self, "detail", tuple(detail))  # JSON knows lists only

    @property
    def detail_multiple(self) -> int:
        """The detail network pads both sides of an image to a multiple of this many pixels."""
        return BLOCK * 2 ** (len(self.detail) - 1)

    @property
    def features_per_pixel(self) -> float:
        """Channels of the largest feature maps for every pixel of the image: what memory grows with."""
        return self.detail[0] / BLOCK ** 2

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values; `presets.config_from_dict` is the way back."""
        return {"network": "photo", "head": "curve", **asdict(self), "widths": list(self.widths),
                "detail": list(self.detail)}


class PhotoMIRNet(CompactMIRNet):
    """A MIRNet for photographs: a dark image in, the restored image with less noise out.

    Shape:
        As for `CompactMIRNet`. `to_core` and `core` are those of the colour maps.
    """

    config: PhotoConfig

    def __init__(self, config: PhotoConfig = PhotoConfig()) -> None:
        super().__init__(config)
        self.detail = DetailNetwork(config.in_channels, config.detail, config.n_MSRB)

    def restore(self, image: Tensor, maps: Tensor, *, exposure: float = 0.0) -> Tensor:
        """Return the restored image, of the shape of `image`, which is the one that the core saw."""
        return self.refine(image, super().restore(image, maps, exposure=exposure))

    def refine(self, image: Tensor, bright: Tensor) -> Tensor:
        """Remove the noise of a brightened image.

        Args:
            image: the dark image (B, C, H, W), in [0, 1].
            bright: the same, recoloured.

        Returns:
            (B, C, H, W), not clamped.
        """
        height, width = image.shape[-2:]
        dark, raised = (pad_image(each, self.config.in_channels, self.config.detail_multiple)
                        for each in (image, bright))
        change = self.detail(torch.cat([raised, dark.clamp(min=0).sqrt()], 1))
        return bright + change[..., :height, :width].to(bright.dtype)


class DetailNetwork(nn.Module):
    """What is to be added to a brightened image: (B, 2 C, H, W), bright and the root of dark -> (B, C, H, W)."""

    def __init__(self, channels: int, widths: tuple[int, ...], blocks: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(2 * channels * BLOCK ** 2, widths[0], 3, padding=1)
        self.body = nn.Sequential(RRG(*[CompactMSRB(widths) for _ in range(blocks)], conv_same(widths[0], 1)))
        self.conv_out = nn.Conv2d(widths[0], channels * BLOCK ** 2, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        assert self.conv_out.bias is not None
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, images: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv_out(self.body(self.conv_in(F.pixel_unshuffle(images, BLOCK)))), BLOCK)
