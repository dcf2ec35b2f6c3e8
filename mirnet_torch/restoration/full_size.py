"""Restore photographs of any size with a compact network or `photo`: the maps come from a small copy of the photograph.

    copy      the photograph, box-filtered to `COPY_PIXELS`
    maps      what the core makes of the copy; they belong to the whole photograph
    strips    the photograph at its own size, some rows at a time, with the factors of the maps enlarged to these rows

So attention sees the whole picture, there are no seams, and the network costs the same for every photograph. Beside the
photograph and the result, memory holds a strip for each thread. `photo` also removes noise at the photograph's own
size, in tiles that fade into each other; only its noise is judged tile by tile, its light and colour are not.

The copy's size was measured with both networks (PSNR in dB / SSIM): Kodak's 24 photographs of 768x512, darkened by the
camera model, and 32 views of held-out panoramas of 600x400, exposed as nights.

    pixels of the copy      400,000       240,000       172,800       120,000       80,000        60,000
    mcu, photographs        23.80/0.850   24.33/0.851   24.31/0.851   24.42/0.850   24.23/0.849   24.31/0.849
    mcu, nights             24.59/0.778   (the same)    24.72/0.780   24.99/0.777   25.13/0.774   25.25/0.775
    photo, photographs      22.54/0.882   24.65/0.891   24.35/0.889   24.39/0.889   24.29/0.889   24.53/0.889
    photo, nights           25.74/0.922   (the same)    26.01/0.925   26.34/0.925   26.52/0.926   26.73/0.930

LOL's windows of 320x224 gain 0.4 and 0.2 dB when they are shrunk as much as 600x400 is. Averaging pixels takes noise
away before the roots; very small copies lose the edges of light.

Factors are enlarged bilinearly. Weights that also follow brightness gained 0.01 dB on photographs (0.07 dB with
copies of 170x113) and 0.08 dB on LOL's pairs of 300x200. With `mcu` 12 megapixels take 1.1 s of processor time and
160 MB with the result; with the network on every pixel they took 5.1 s and 1.7 GB.
"""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Callable, Iterable, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mirnet_torch.compact import CompactMIRNet
from mirnet_torch.model import pad_image
from mirnet_torch.photo import PhotoMIRNet
from mirnet_torch.restoration import photo_inference
from mirnet_torch.restoration.steady import SteadyMaps
from mirnet_torch.restoration.tiles import OVERLAP, TILE, shrunk_size, windows

Item = TypeVar("Item")
Result = TypeVar("Result")
COPY_PIXELS = 480 * 360
STRIP_PIXELS = 2 ** 16
LEVELS = {torch.uint8: 255, torch.uint16: 65535}  # white, by the type of integers


def restore_full_size(model: CompactMIRNet, batch: Tensor, *, exposure: float = 0.0,
                      steady: SteadyMaps | None = None) -> Tensor:
    """Restore images with maps from copies of at most `COPY_PIXELS`.

    Without shrinking that is what `CompactMIRNet.restore` does.

    Args:
        model: it runs on its own device.
        batch: (B, C, H, W), uint8, uint16, or floating point in [0, 1].
        exposure: in EV, see `CompactMIRNet.recolour`.
        steady: of the video whose next frame the batch is.

    Returns:
        The restored images, of the type, shape and device of `batch`; clamped, and integers rounded to the nearest.

    Raises:
        FloatingPointError: the network's output is not finite.
    """
    maps = maps_of_copy(model, batch)
    return apply_maps(model, batch, steady.next(maps) if steady else maps, exposure=exposure)


@torch.no_grad()
def maps_of_copy(model: CompactMIRNet, batch: Tensor) -> Tensor:
    """Return the maps of images' copies: (B, C, H, W) -> (B, maps, rows of cells, columns), on the model's device.

    Raises:
        FloatingPointError: the network's output is not finite.
    """
    parameter = next(model.parameters())

    def maps_of(copy: Tensor) -> Tensor:
        cells = model.to_core(pad_image(copy.to(parameter), model.config.in_channels, model.multiple))
        return model.core(cells).to(precision(batch))

    maps = torch.cat(in_threads(maps_of, box_filter(batch, *copy_size(*batch.shape[-2:])).split(1)))
    if not maps.isfinite().all():
        raise FloatingPointError("the network's output is not finite: its weights do not suit this image")
    return maps


@torch.no_grad()
def apply_maps(model: CompactMIRNet, batch: Tensor, maps: Tensor, *, exposure: float = 0.0) -> Tensor:
    """Restore images with the maps of their copies.

    The centre of pixel y of H lies at (y + 0.5) * copy / H in a copy of `copy` rows, and among the centres of cells at
    this divided by the cell's side, less 0.5. Between centres factors are bilinear, beyond the outermost constant.
    """
    images, _, height, width = batch.shape
    rows, columns = copy_size(height, width)
    device, cell, factors = next(model.parameters()).device, model.config.cell, model.factors(maps)
    across = (torch.arange(width, dtype=torch.float64) + 0.5) * (columns / width / cell) - 0.5
    down = (torch.arange(height, dtype=torch.float64) + 0.5) * (rows / height / cell) - 0.5
    wide = sample(factors, across, -1)  # (B, maps, rows of cells, W)
    restored = torch.empty_like(batch)

    def recoloured(y: slice, x: slice) -> tuple[Tensor, Tensor]:
        image = to_values(batch[..., y, x].to(device), precision(batch))
        return image, model.recolour(image, sample(wide[..., x], down[y], -2), exposure=exposure)

    if isinstance(model, PhotoMIRNet):
        _refine_tiles(model, recoloured, restored)
        return restored
    step = max(STRIP_PIXELS // (images * width), 1)

    def restore_strip(start: int) -> None:
        strip = slice(start, min(start + step, height))
        _, result = recoloured(strip, slice(0, width))
        restored[..., strip, :] = to_levels(result.clamp_(0, 1), batch.dtype)

    in_threads(restore_strip, range(0, height, step))
    return restored


def _refine_tiles(model: PhotoMIRNet, recoloured: Callable[[slice, slice], tuple[Tensor, Tensor]],
                  restored: Tensor) -> None:
    """Fill `restored` (B, C, H, W) with what the detail network makes of tiles of the recoloured photograph."""
    parameter, multiple = next(model.parameters()), model.config.detail_multiple
    refined = partial(photo_inference.refine, model) if photo_inference.suits(model) else model.refine
    height, width = restored.shape[-2:]
    columns = windows(width, TILE, OVERLAP, multiple)
    rows = windows(height, TILE, OVERLAP, multiple)
    sums = torch.zeros((*restored.shape[:2], 0, width), dtype=precision(restored), device=restored.device)
    top = 0  # of the rows in `sums`: those that a later row of tiles adds to
    for k, (y, weight_y) in enumerate(rows):
        def refine(column: tuple[slice, Any], y: slice = y, weight_y: Any = weight_y) -> Tensor:
            x, weight_x = column
            image, bright = (each.to(parameter.dtype) for each in recoloured(y, x))
            tile = refined(image, bright).clamp(0, 1).to(restored.device, precision(restored))
            return tile * torch.from_numpy(weight_y[:, None] * weight_x).to(tile)

        sums = F.pad(sums, (0, 0, 0, y.stop - top - sums.shape[-2]))
        for (x, _), tile in zip(columns, in_threads(refine, columns)):
            sums[..., y.start - top:, x] += tile
        done = rows[k + 1][0].start if k + 1 < len(rows) else height
        restored[..., top:done, :] = to_levels(sums[..., :done - top, :].clamp_(0, 1), restored.dtype)
        sums, top = sums[..., done - top:, :].clone(), done


def in_threads(task: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return the results of a task for all items, as many at a time as torch has threads, each in one thread.

    Torch alone splits every operation between its threads and waits for the slowest, some 50 times in a strip. On a
    busy machine of two cores strips took ten times as long, and the core 0.6 s of processor time instead of 0.01 s.
    """
    def alone(item: Item) -> Result:
        with torch.inference_mode():  # like `no_grad`, it holds for one thread
            return task(item)

    threads = torch.get_num_threads()
    if threads == 1:
        return [alone(item) for item in items]
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(alone, items))
    finally:
        torch.set_num_threads(threads)


def copy_size(height: int, width: int, pixels: int | None = None) -> tuple[int, int]:
    """Return rows and columns of a copy in the photograph's aspect, or its own size if less.

    Args:
        pixels: of the copy; None: `COPY_PIXELS`.
    """
    return shrunk_size(height, width, pixels or COPY_PIXELS)


def box_filter(batch: Tensor, rows: int, columns: int) -> Tensor:
    """Shrink images (B, C, H, W): every pixel of the result is the mean of the area that it covers, in [0, 1].

    Returns:
        (B, C, rows, columns), float64 for float64, else float32.
    """
    height, width = batch.shape[-2:]

    step = min(max(STRIP_PIXELS * rows // (height * width), 1), 64)

    def shrink_rows(start: int) -> Tensor:  # in parts, so that the photograph is never whole in floating point
        stop = min(start + step, rows)
        first, last = start * height // rows, -(-stop * height // rows)
        edges = torch.arange(start, stop + 1, dtype=torch.float64, device=batch.device) * (height / rows)
        row = torch.arange(first, last, dtype=torch.float64, device=batch.device)
        covered = (row + 1).minimum(edges[1:, None]) - row.maximum(edges[:-1, None])
        values = to_values(batch[..., first:last, :], precision(batch))
        return (covered.clamp(min=0) * (rows / height)).to(values) @ values

    sums = F.pad(torch.cat(in_threads(shrink_rows, range(0, rows, step)), -2).double().cumsum(-1), (1, 0))
    edges = torch.arange(columns + 1, dtype=torch.float64) * width / columns
    return (sample(sums, edges, -1).diff() * (columns / width)).to(precision(batch))


def sample(values: Tensor, positions: Tensor, dim: int) -> Tensor:
    """Interpolate linearly along dimension -1 or -2 of N values at positions (M,), from 0 to N - 1.

    Beyond them the outermost value holds.
    """
    last = values.shape[dim] - 1
    positions = positions.clamp(0, last)
    before = positions.long()
    weight = (positions - before).to(values.dtype).to(values.device)  # where there may be no float64, as on MPS
    before = before.to(values.device)
    low, high = values.index_select(dim, before), values.index_select(dim, (before + 1).clamp(max=last))
    return torch.lerp(low, high, weight if dim == -1 else weight[:, None])


def precision(batch: Tensor) -> torch.dtype:
    """Return the type to work in: float64 for float64, else float32."""
    return torch.float64 if batch.dtype == torch.float64 else torch.float32


def to_values(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn pixels of any type into floating point in [0, 1]."""
    values = pixels.to(dtype)
    return values / LEVELS[pixels.dtype] if pixels.dtype in LEVELS else values


def to_levels(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn values in [0, 1] into a type of pixels; integers are rounded to the nearest."""
    return (values * LEVELS[dtype]).round_().to(dtype) if dtype in LEVELS else values.to(dtype)
