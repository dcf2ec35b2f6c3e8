"""Maps that stay steady in time, so that the brightness of a video does not flicker.

Fresh noise in every frame moves the maps a little, and with them the brightness of whole regions. `SteadyMaps` averages
the maps of a cell over the last frames, up to `FRAMES` of them, and starts again where the scene changes:

    change  the largest difference between a frame's maps and the kept ones, each difference a mean over 3x3 cells
    weight  of the frame in the average, from 1 / frames for a change up to `NOISE` to 1 from `SCENE` on

So a lamp that moves, a light that is switched on and a cut to another scene need no detector of their own. A scene that
changes slowly lags behind, by less than `SCENE`. `python -m mirnet_torch.flicker` measures all this.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FRAMES = 20
NOISE, SCENE = 0.05, 0.15  # in the unit of maps, see `CompactMIRNet.factors`


class SteadyMaps:
    """The maps of one video, frame by frame. Frames of another size start a new video."""

    def __init__(self) -> None:
        self._maps: Tensor | None = None
        self._frames: Tensor  # that the kept maps are the mean of, for every cell

    def next(self, maps: Tensor) -> Tensor:
        """Take the maps of the next frame (B, maps, H, W), and return the steady ones, of the same shape."""
        kept = self._maps
        if kept is None or kept.shape != maps.shape:
            self._maps, self._frames = maps, torch.ones_like(maps[:, :1])
            return maps
        difference = maps - kept
        change = F.avg_pool2d(difference, 3, 1, 1, count_include_pad=False).abs().amax(1, keepdim=True)
        weight = (1 / (self._frames + 1).clamp(max=FRAMES)).maximum(((change - NOISE) / (SCENE - NOISE)).clamp(0, 1))
        self._frames = 1 / weight
        self._maps = kept + weight * difference
        return self._maps
