"""Restore pictures with a network, whole or in tiles: `enhance(model, image)`.

A compact network (`mcu`, `photo`) needs no tiles for light and colour: of a photograph of over 172,800 pixels it sees
a small copy, and its maps are laid over the photograph at its own size (`full_size`). `photo` then removes noise in
tiles. With `tile` it sees the photograph's own pixels. Only a compact network takes an exposure, and keeps the
brightness of a video steady (`steady`).

The published network sees a large photograph in tiles, which fade into each other. Its attention and fusion average
over the whole picture; tiles take these averages from a small copy. With random weights (16 features)
a photograph of 300x200 in tiles differs from the whole by 0.35 levels, and by 2.1 without the copy (tiles of 96, faded
over 32 pixels); in tiles of 128, faded over 64, by 0.16 and 1.4. With trained weights, of which none ship, it was not
measured.
"""
from __future__ import annotations

import os
from functools import partial
from typing import Any, Sequence, Union

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mirnet_torch.cli import LARGEST_EXPOSURE, progress
from mirnet_torch.compact import CompactMIRNet
from mirnet_torch.files.images import luma, upright
from mirnet_torch.files.photographs import photograph_of, picture_of, read_photograph
from mirnet_torch.presets import Config, Network
from mirnet_torch.restoration import inference, photo_inference
from mirnet_torch.restoration.converted import Converted
from mirnet_torch.restoration.full_size import (COPY_PIXELS, box_filter, copy_size, precision, restore_full_size,
                                                to_levels, to_values)
from mirnet_torch.restoration.steady import SteadyMaps
from mirnet_torch.restoration.tiles import FEATHER, windows

Image_ = Union[np.ndarray, Tensor, Image.Image, str, "os.PathLike[str]"]
MEMORY = 2 * 2 ** 30  # bytes that the network may take for one tile if --tile is not given


def enhance(model: Network | Converted, image: Image_, *, tile: int | None = None, overlap: int | None = None,
            exposure: float = 0.0, strength: float = 1.0, steady: SteadyMaps | None = None,
            show_progress: bool = False) -> Any:
    """Restore an image, whole or in tiles; the result has the type, shape and device of the input.

    Args:
        model: a network; it runs on its own device, one tile at a time. Or a converted one of `converted.py`, which
            takes arrays and an exposure only.
        image: an array (H, W, 3), several (B, H, W, 3), or grey (H, W), of uint8, uint16, or floating point in [0, 1];
            or a floating-point tensor (C, H, W) or (B, C, H, W) in [0, 1] with the network's C; or a Pillow image; or
            the name of a file. An RGB network takes a grey array as RGB and returns the luma of its output.
        tile: side of the square tiles in pixels; 0: the network sees all pixels at once; None: a compact network sees a
            copy of an image of over 172,800 pixels, see `full_size`; for another network the image is cut if it would
            take more than about 2 GB, see `default_tile`.
        overlap: pixels that neighbouring tiles share at least; they fade into each other there. None: 32, or half of
            smaller tiles.
        exposure: in EV, from -4 to 4: how much brighter than the network's own choice; compact networks only.
        strength: how much of the result is taken, from 0, the image as it was, to 1.
        steady: of a video whose next frame the image is, so that its brightness does not flicker; compact networks
            only, and not with `tile`.
        show_progress: show a progress bar over the tiles.

    Returns:
        The restored image, clamped to [0, 1]; integers are rounded to the nearest level. Of a Pillow image or a file a
        Pillow image with 8 bits, upright, with its alpha; arrays and the command keep 16 bits.

    Raises:
        ValueError: an argument is not as described.
        UserError: the file cannot be read.
        FloatingPointError: the network's output is not finite.
    """
    if isinstance(model, Converted):
        if not isinstance(image, np.ndarray) or strength != 1 or steady or (tile, overlap) != (None, None):
            raise ValueError("a converted network takes an array and an exposure only: leave the rest out")
        return model(image, exposure=exposure)
    if not abs(exposure) <= LARGEST_EXPOSURE:
        raise ValueError(f"exposure must be from -{LARGEST_EXPOSURE:g} to {LARGEST_EXPOSURE:g} EV, not {exposure}")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be from 0 to 1, not {strength}")
    if (exposure or steady) and not isinstance(model, CompactMIRNet):
        raise ValueError("exposure and steady need a compact network, such as photo: the published one has no "
                         "colour maps")
    if steady and tile is not None:
        raise ValueError("frames are kept steady without tiles: leave tile out")
    channels = model.config.in_channels
    restore = partial(_restore, model, tile=tile, overlap=overlap, exposure=exposure, steady=steady,
                      show_progress=show_progress)
    if isinstance(image, (str, os.PathLike, Image.Image)):
        photograph = photograph_of(upright(image)) if isinstance(image, Image.Image) else read_photograph(image)
        return picture_of(enhance(model, photograph.pixels, tile=tile, overlap=overlap, exposure=exposure,
                                  strength=strength, steady=steady, show_progress=show_progress), photograph)
    if isinstance(image, Tensor):
        if not image.is_floating_point() or image.ndim not in (3, 4) or image.shape[-3] != channels or 0 in image.shape:
            raise ValueError(f"enhance takes a floating-point tensor ({channels}, H, W) or (B, {channels}, H, W) in "
                             f"[0, 1], not {image.dtype} {tuple(image.shape)}")
        batch = _in_range(image if image.ndim == 4 else image[None])
        return _blend(batch, restore(batch), strength).reshape(image.shape)
    grey = np.ndim(image) == 2
    if not isinstance(image, np.ndarray) or image.dtype not in (np.uint8, np.uint16, np.float32, np.float64) or (
            not grey and (image.ndim not in (3, 4) or image.shape[-1] != 3)) or image.size == 0:
        given = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError("enhance takes an array (H, W, 3), (B, H, W, 3) or (H, W) of uint8, uint16, or float32 or "
                         f"float64 in [0, 1], a tensor, a Pillow image or the name of a file, not {given}")
    if channels not in (1, 3) or channels == 1 and not grey:
        raise ValueError(f"a network of {channels} channels cannot take an array of shape {image.shape}")
    kept = np.require(image, requirements=["C", "W"])  # torch takes no other
    pixels = _in_range(torch.from_numpy(kept))
    batch = pixels.expand(1, channels, *pixels.shape) if grey else pixels.reshape(-1, *pixels.shape[-3:]).movedim(-1, 1)
    restored = restore(batch).movedim(1, -1).contiguous()
    restored = restored if image.ndim == 4 else restored[0]
    if grey:
        restored = restored[..., 0] if channels == 1 else torch.from_numpy(luma(restored.numpy()))
    return _blend(pixels, restored, strength).numpy()


def _in_range(image: Tensor) -> Tensor:
    """Return floating-point values clipped to [0, 1]; only those of rounding, up to 0.001, may lie outside.

    Raises:
        ValueError: others do, or a value is not a number.
    """
    if not image.is_floating_point():
        return image
    low, high = image.min().item(), image.max().item()
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(f"enhance takes floating-point values in [0, 1], not from {low:g} to {high:g}: "
                         + ("scale them" if low == low else "some are not numbers"))
    return image.clamp(0, 1) if low < 0 or high > 1 else image


def _blend(before: Tensor, after: Tensor, strength: float) -> Tensor:
    """Return the part of the way from one to the other, of their type: 0 is `before`, 1 `after`."""
    if strength == 1:
        return after
    parts = zip(before.reshape(-1).split(2 ** 22), after.reshape(-1).split(2 ** 22))  # in parts, to save memory
    work = precision(before)
    blended = [to_levels(torch.lerp(to_values(old, work), to_values(new, work), strength), before.dtype)
               for old, new in parts]
    return torch.cat(blended).reshape(before.shape)


def default_tile(config: Config, shape: Sequence[int]) -> int:
    """Return the side of the tiles that bound the network's memory to about 2 GB, or 0 if (B, C, H, W) need no cutting.

    Measured on the CPU: a network holds at most 20 of its largest feature maps and 8 images in float32 at a time.
    """
    batch, channels, height, width = shape
    bytes_per_pixel = 4 * batch * (20 * config.features_per_pixel + 8 * channels)
    if height * width * bytes_per_pixel <= MEMORY:
        return 0
    side = int((MEMORY / bytes_per_pixel) ** 0.5)
    return max(side // 64 * 64, 2 * config.multiple)


@torch.no_grad()
def _restore(model: Network, batch: Tensor, *, tile: int | None, overlap: int | None, exposure: float,
             steady: SteadyMaps | None, show_progress: bool) -> Tensor:
    """Return the restored batch (B, C, H, W), clamped, as a new tensor of its type on its device."""
    height, width = batch.shape[-2:]
    multiple = model.config.multiple
    if tile is None and isinstance(model, CompactMIRNet) and (steady or height * width > COPY_PIXELS):
        return restore_full_size(model, batch, exposure=exposure, steady=steady)
    if tile is None:
        tile = default_tile(model.config, batch.shape)
    if tile:
        if tile < 2 * multiple:
            raise ValueError(f"tile must be 0 or at least {2 * multiple} pixels for this network")
        overlap = min(FEATHER, tile // 2) if overlap is None else overlap
        if not 0 <= overlap <= tile // 2:
            raise ValueError(f"overlap must be from 0 to half of tile ({tile // 2}), not {overlap}")
    if not tile or overlap is None or tile >= max(height, width):
        return to_levels(_checked(_run(model, batch, exposure)).clamp(0, 1), batch.dtype)
    means = None
    if inference.suits(model):
        copy = box_filter(batch, *copy_size(height, width, min(COPY_PIXELS, tile ** 2)))
        means = inference.means_of(model, copy.to(next(model.parameters())))
    restored = torch.zeros(batch.shape, dtype=precision(batch), device=batch.device)
    columns = windows(width, tile, overlap, multiple)
    places = [(row, column) for row in windows(height, tile, overlap, multiple) for column in columns]
    for (y, weight_y), (x, weight_x) in progress(places, desc="tiles", leave=False) if show_progress else places:
        part = _checked(_run(model, batch[..., y, x], exposure, means))
        weight = torch.from_numpy(weight_y[:, None] * weight_x).to(restored)
        restored[..., y, x] += part.clamp(0, 1) * weight
    return to_levels(restored.clamp_(0, 1), batch.dtype)


def _run(model: Network, batch: Tensor, exposure: float, means: Sequence[Tensor] | None = None) -> Tensor:
    """Run the network on its device, in its data type; the result is on the device of `batch`.

    A published network takes the means of the picture that the batch is a part of; other networks have none.
    """
    parameter = next(model.parameters())
    image = to_values(batch.to(parameter.device), parameter.dtype)
    if photo_inference.suits(model):
        result = photo_inference.restore(model, image, exposure=exposure)
    elif exposure:
        result = model(image, exposure=exposure)
    else:
        result = inference.restore(model, image, means) if inference.suits(model) else model(image)
    return result.to(batch.device, precision(batch))


def _checked(result: Tensor) -> Tensor:
    if not result.isfinite().all():
        raise FloatingPointError("the network's output is not finite: its weights do not suit this image")
    return result
