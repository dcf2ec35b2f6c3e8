"""Brighten photographs: `enhance(model, image)` and the command

    python -m mirnet_torch.enhance PHOTO FOLDER ... --out DIR [--exposure EV] [--checkpoint C] [--compare] [--frames]
    python -m mirnet_torch.enhance night.mp4 --out bright.mp4 [--exposure EV] [--checkpoint C]

Files keep their names; a folder is searched with its subfolders, which are kept. The result has the format of the input
and its 8 or, in PNG and TIFF, 16 bits; it is upright, with the input's alpha, ICC profile and EXIF (without orientation
and thumbnail; none in TIFF of 16-bit colours); grey stays grey. CMYK becomes RGB; only the first frame is used.

A compact network (`mcu`) needs no tiles: of a photograph of over 240,000 pixels it sees a small copy, and its maps are
laid over the photograph at its own size (`full_size`). With `--tile` it sees the photograph's own pixels. Only a
compact network takes an exposure, and keeps the brightness of a video steady (`steady`).

Tiling changes the result: attention and SKFF average over the tile instead of the whole image. The difference is
largest where brightness varies from tile to tile; neighbouring tiles fade into each other, which hides the seams.
"""
from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any, Sequence, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from mirnet_torch.checkpoint import load_model
from mirnet_torch.cli import (FULL, UserError, add_device_option, fault_of, folder_path, make_folder, pick_device,
                              program, progress, require_extra, run_command)
from mirnet_torch.compact import LARGEST_EXPOSURE, CompactMIRNet
from mirnet_torch.deep_images import DEEP_SUFFIXES, deep_pixels, write_deep
from mirnet_torch.folders import Job, find_jobs, listed, remove_leftovers
from mirnet_torch.full_size import COPY_PIXELS, precision, restore_full_size, to_levels, to_values
from mirnet_torch.images import (SUFFIXES, is_grey, luma, open_image, side_by_side, to_8_bits, to_grey, to_rgb,
                                 write_image)
from mirnet_torch.presets import Config, Network
from mirnet_torch.steady import SteadyMaps
from mirnet_torch.video import VIDEO_SUFFIXES, WRITTEN_SUFFIXES, convert_video

ImageType = TypeVar("ImageType", np.ndarray, Tensor)
OVERLAP = 32
MEMORY = 2 * 2 ** 30  # bytes that the network may take for one tile if --tile is not given


def enhance(model: Network, image: ImageType, *, tile: int | None = None, overlap: int | None = None,
            exposure: float = 0.0, steady: SteadyMaps | None = None, show_progress: bool = False) -> ImageType:
    """Restore an image, whole or in tiles; the result has the type, shape and device of the input.

    Args:
        model: a network; it runs on its own device, one tile at a time.
        image: a uint8 or uint16 array (H, W, 3) or grey (H, W), or a floating-point tensor (C, H, W) or (B, C, H, W)
            in [0, 1] with the network's C. An RGB network takes a grey array as RGB and returns the luma of its output.
        tile: side of the square tiles in pixels; 0: the network sees all pixels at once; None: a compact network sees a
            copy of an image of over 240,000 pixels, see `full_size`; for another network the image is cut if it would
            take more than about 2 GB, see `default_tile`.
        overlap: pixels that neighbouring tiles share at least; they fade into each other there. None: 32, or half of
            smaller tiles.
        exposure: how much brighter the result is than the network thinks, in EV, from -4 to 4; compact networks only.
        steady: of a video whose next frame the image is, so that its brightness does not flicker; compact networks
            only, and not with `tile`.
        show_progress: show a progress bar over the tiles.

    Returns:
        The restored image, clamped to [0, 1]; integers are rounded to the nearest level.

    Raises:
        ValueError: an argument is not as described.
        FloatingPointError: the network's output is not finite.
    """
    if not abs(exposure) <= LARGEST_EXPOSURE:
        raise ValueError(f"exposure must be from -{LARGEST_EXPOSURE:g} to {LARGEST_EXPOSURE:g} EV, not {exposure}")
    if (exposure or steady) and not isinstance(model, CompactMIRNet):
        raise ValueError("exposure and steady need a compact network, such as mcu: the published has no colour maps")
    if steady and tile is not None:
        raise ValueError("frames are kept steady without tiles: leave tile out")
    channels = model.config.in_channels
    restore = partial(_restore, model, tile=tile, overlap=overlap, exposure=exposure, steady=steady,
                      show_progress=show_progress)
    if isinstance(image, Tensor):
        if not image.is_floating_point() or image.ndim not in (3, 4) or image.shape[-3] != channels or 0 in image.shape:
            raise ValueError(f"enhance takes a floating-point tensor ({channels}, H, W) or (B, {channels}, H, W) in "
                             f"[0, 1], not {image.dtype} {tuple(image.shape)}")
        batch = image if image.ndim == 4 else image[None]
        return restore(batch).reshape(image.shape)
    grey = image.ndim == 2
    if image.dtype not in (np.uint8, np.uint16) or not grey and image.shape[2:] != (3,) or image.size == 0:
        raise ValueError(f"enhance takes a uint8 or uint16 array (H, W, 3) or (H, W), not {image.dtype} {image.shape}")
    if channels not in (1, 3) or channels == 1 and not grey:
        raise ValueError(f"a network of {channels} channels cannot take an array of shape {image.shape}")
    kept = np.require(image[..., None] if grey else image, requirements=["C", "W"])  # torch takes no other
    pixels = torch.from_numpy(kept).permute(2, 0, 1)[None]
    restored = restore(pixels.expand(-1, channels, -1, -1))
    levels = restored[0].permute(1, 2, 0).contiguous().numpy()
    if grey:
        return levels[..., 0] if channels == 1 else luma(levels)
    return levels


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
        overlap = min(OVERLAP, tile // 2) if overlap is None else overlap
        if not 0 <= overlap <= tile // 2:
            raise ValueError(f"overlap must be from 0 to half of tile ({tile // 2}), not {overlap}")
    if not tile or overlap is None or tile >= max(height, width):
        return to_levels(_checked(_run(model, batch, exposure)).clamp(0, 1), batch.dtype)
    restored = torch.zeros(batch.shape, dtype=precision(batch), device=batch.device)
    columns = _windows(width, tile, overlap, multiple)
    places = [(row, column) for row in _windows(height, tile, overlap, multiple) for column in columns]
    for (y, weight_y), (x, weight_x) in progress(places, desc="tiles", leave=False) if show_progress else places:
        part = _checked(_run(model, batch[..., y, x], exposure))
        weight = (weight_y[:, None] * weight_x).to(restored)
        restored[..., y, x] += part.clamp(0, 1) * weight
    return to_levels(restored.clamp_(0, 1), batch.dtype)


def _run(model: Network, batch: Tensor, exposure: float) -> Tensor:
    """Run the network on its device, in its data type; the result is on the device of `batch`."""
    parameter = next(model.parameters())
    image = to_values(batch.to(parameter.device), parameter.dtype)
    result = model(image, exposure=exposure) if exposure else model(image)
    return result.to(batch.device, precision(batch))


def _checked(result: Tensor) -> Tensor:
    if not result.isfinite().all():
        raise FloatingPointError("the network's output is not finite: its weights do not suit this image")
    return result


def _windows(length: int, tile: int, overlap: int, multiple: int) -> list[tuple[slice, Tensor]]:
    """Cover 0 .. length with overlapping windows; return each with its weights, which sum to 1 at every position.

    Windows start at multiples of `multiple`, so that the coarse positions are those of the whole image. Weights rise
    and fall linearly over `overlap` positions at an edge inside the image.
    """
    last = max(-(-(length - tile) // multiple) * multiple, 0)
    starts = [*range(0, last, (tile - overlap) // multiple * multiple), last]
    total = torch.zeros(length, dtype=torch.float64)
    windows = []
    for start in starts:
        stop = min(start + tile, length)
        position = torch.arange(start, stop, dtype=torch.float64) + 0.5
        weight = torch.ones_like(position)
        if start > 0:
            weight = weight.minimum((position - start) / max(overlap, 1))
        if stop < length:
            weight = weight.minimum((stop - position) / max(overlap, 1))
        total[start:stop] += weight
        windows.append((slice(start, stop), weight))
    return [(window, weight / total[window]) for window, weight in windows]


def enhance_file(model: Network, job: Job, **options: Any) -> None:
    """Enhance one image file with options of `enhance`, and write the comparison if the job names one.

    Raises:
        UserError: the image cannot be read, does not suit the network, or the result cannot be written.
        OSError: the disk fails or is full.
    """
    image = open_image(job.source)
    if job.target.suffix.lower() not in SUFFIXES:
        raise UserError(f"{job.source} does not end in {', '.join(SUFFIXES)}: rename it, the result has the same name")
    if model.config.in_channels == 1 and not is_grey(image):
        raise UserError(f"{job.source} is a colour image and the network takes grey ones: convert it first")
    deep = deep_pixels(image, job.source) if job.target.suffix.lower() in DEEP_SUFFIXES else None
    if deep is not None:
        before = deep if is_grey(image) else deep[..., :3]
    else:
        before = to_grey(image) if is_grey(image) else to_rgb(image)
    try:
        after = enhance(model, before, **options)
    except (ValueError, FloatingPointError) as error:
        raise UserError(f"{job.source}: {error}") from None
    metadata = _metadata(image, grey=is_grey(image))
    if deep is None or deep.ndim == 2:
        picture = Image.fromarray(after)
        if image.has_transparency_data and not image.mode.startswith("I"):
            picture.putalpha(image.convert("RGBA").getchannel("A"))
        write_image(picture, job.target, **metadata)
    else:
        write_deep(np.concatenate([after, deep[..., 3:]], 2), job.target, **metadata)
    if job.compare:
        pair = [to_8_bits(pixels) if pixels.dtype == np.uint16 else pixels for pixels in (before, after)]
        write_image(side_by_side([to_rgb(Image.fromarray(pixels)) for pixels in pair]), job.compare)


def _metadata(image: Image.Image, *, grey: bool) -> dict[str, bytes]:
    """Return the options of Pillow's `save` that keep EXIF and, if it fits the colours, the ICC profile."""
    kept = {}
    profile = image.info.get("icc_profile") or b""
    if profile[16:20] == (b"GRAY" if grey else b"RGB "):
        kept["icc_profile"] = profile
    try:
        exif = image.getexif()
        if len(exif):
            kept["exif"] = exif.tobytes()  # rebuilt from the tags, without the thumbnail
    except Exception:  # damaged EXIF fails in many ways; the picture matters more
        pass
    return kept


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("enhance", "python -m mirnet_torch.enhance"),
        description="Brighten photographs and videos with a MIRNet.",
        epilog="Exit status: 0 if every image was enhanced or skipped, 2 if not; the images that were not are named, "
               "and the others are done. The last line counts all, also files in formats that are not read.")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="an image, a folder of images and subfolders "
                        f"({', '.join(SUFFIXES)}), or a video alone ({', '.join(VIDEO_SUFFIXES)})")
    parser.add_argument("--out", required=True, type=folder_path, metavar="DIR",
                        help="folder for the results, created if needed; of a video the name of the result "
                             f"({', '.join(WRITTEN_SUFFIXES)})")
    parser.add_argument("--checkpoint", default="mcu", help="weights: a file, or a preset whose weights ship with the "
                                                            "package (default: %(default)s)")
    parser.add_argument("--compare", action="store_true", help="also write NAME_compare: before and after side by side")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace results that exist")
    existing.add_argument("--skip-existing", action="store_true",
                          help="leave out images whose results exist, to go on after a stop")
    parser.add_argument("--exposure", type=float, default=0.0, metavar="EV",
                        help=f"how much brighter than the network thinks, from -{LARGEST_EXPOSURE:g} to "
                             f"{LARGEST_EXPOSURE:g}; lamps do not burn (default: 0)")
    parser.add_argument("--frames", action="store_true", help="the images of a folder are the frames of a video, in "
                        "the order of their names: brightness is kept steady from one to the next, as in a video")
    add_tile_options(parser)
    add_device_option(parser)
    options = parser.parse_args(arguments)
    if not abs(options.exposure) <= LARGEST_EXPOSURE:
        parser.error(f"argument --exposure: must be from -{LARGEST_EXPOSURE:g} to {LARGEST_EXPOSURE:g} EV, not "
                     f"{options.exposure}")
    check_tile_options(parser, options)
    return options


def add_tile_options(parser: argparse.ArgumentParser) -> None:
    """Add `--tile` and `--overlap` to a command's options; check them with `check_tile_options`."""
    parser.add_argument("--tile", type=int, metavar="N",
                        help="cut images into tiles of N pixels a side to limit memory; 0 never cuts. By default the "
                             "published network gets tiles of images beyond 640x640, for which it would take more than "
                             "about 2 GB, and mcu gets a small copy of images beyond 240,000 pixels, which needs no "
                             "tiles. A tile does not see the picture around it, so larger tiles are better")
    parser.add_argument("--overlap", type=int, metavar="M",
                        help="pixels over which neighbouring tiles fade into each other (default: "
                             f"{OVERLAP}, or half of smaller tiles)")


def check_tile_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with the parser's error unless the values of `--tile` and `--overlap` are valid."""
    if options.tile is not None and options.tile < 0:
        parser.error(f"argument --tile: must be 0 or more, not {options.tile}")
    if options.overlap is not None and (options.overlap < 0 or options.tile and options.overlap > options.tile // 2):
        limit = f"from 0 to half of --tile ({options.tile // 2})" if options.tile else "0 or more"
        parser.error(f"argument --overlap: must be {limit}, not {options.overlap}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with its arguments (default: those of the process).

    Raises:
        UserError: some images could not be enhanced (the others were), or nothing could be done.
    """
    options = _arguments(arguments)
    device = pick_device(options.device)
    if _is_video(options):
        _enhance_video(options, device)
        return
    found = find_jobs(options.inputs, options.out, compare=options.compare)
    if found.jobs:
        model = _load(options, device)
        make_folder(options.out)
        remove_leftovers({job.target.parent for job in found.jobs})
    asked, done, faults = len(found.jobs) + len(found.faults), 0, found.faults
    if asked > 1:
        for fault in faults:
            _report(fault)
    steady, folder = None, None
    with progress(found.jobs, desc="images", unit="image") as bar:
        for job in bar:
            if options.frames and job.source.parent != folder:
                steady, folder = SteadyMaps(), job.source.parent
            try:
                if options.skip_existing and all(os.path.lexists(target) for target in job.targets):
                    found.skipped["done before"] += 1
                    continue
                make_folder(job.target.parent)
                _check_targets(job, options.overwrite)
                enhance_file(model, job, tile=options.tile, overlap=options.overlap, exposure=options.exposure,
                             steady=steady, show_progress=True)
                done += 1
            except Exception as error:
                cause = fault_of(error)
                full = isinstance(error, OSError) and error.errno in FULL  # no other image would fit either
                if cause is None or full:
                    raise
                faults.append(cause if str(job.source) in cause else f"{job.source}: {cause}")
                if asked > 1:
                    _report(faults[-1])
    summary = f"{done} enhanced into {options.out}"
    if found.skipped:
        summary += f"; skipped: {listed(found.skipped)}"
    if faults:
        raise UserError(faults[0] if asked == 1 else f"{len(faults)} of {asked} inputs were not enhanced, for the "
                                                     f"reasons above; {summary}")
    print(summary)


def _is_video(options: argparse.Namespace) -> bool:
    """Return whether the input is a video.

    Raises:
        UserError: inputs, `--out` and options do not go together.
    """
    videos = [name for name in options.inputs if name.lower().endswith(VIDEO_SUFFIXES) and not Path(name).is_dir()]
    written = options.out.suffix.lower() in WRITTEN_SUFFIXES and not options.out.is_dir()
    if not videos:
        if written:
            raise UserError(f"--out {options.out} names a video, but no input is one: give a folder")
        return False
    if len(options.inputs) > 1 or not written:
        raise UserError(f"{videos[0]} is a video: give it alone, and --out the name of the result, such as bright.mp4 "
                        f"({', '.join(WRITTEN_SUFFIXES)})")
    if options.compare:
        raise UserError("--compare is for images: leave it out for a video")
    return True


def _load(options: argparse.Namespace, device: torch.device) -> Network:
    """Load the network.

    Raises:
        UserError: it cannot be used with the options.
    """
    model = load_model(options.checkpoint, device=device)
    for name in ("exposure", "frames"):
        if getattr(options, name) and not isinstance(model, CompactMIRNet):
            raise UserError(f"--{name} needs a compact network, such as mcu: {options.checkpoint} holds the published "
                            "one, which has no such control")
    if options.frames and options.tile is not None:
        raise UserError("--frames and --tile exclude each other: leave --tile out")
    return model


def _enhance_video(options: argparse.Namespace, device: torch.device) -> None:
    require_extra("video", "enhancing a video")
    source = Path(options.inputs[0])
    if source.resolve() == options.out.resolve():
        raise UserError(f"the result would replace the input {source}: give another --out")
    if options.out.exists() and not options.overwrite:
        raise UserError(f"{options.out} exists: give --overwrite to replace it, or another --out")
    model = _load(options, device)
    steady = SteadyMaps() if isinstance(model, CompactMIRNet) and options.tile is None else None
    make_folder(options.out.parent)
    restore = partial(enhance, model, tile=options.tile, overlap=options.overlap, exposure=options.exposure,
                      steady=steady)
    try:
        frames = convert_video(source, options.out, restore)
    except (ValueError, FloatingPointError) as error:
        raise UserError(f"{source}: {error}") from None
    print(f"{frames} frames enhanced into {options.out}")


def _report(fault: str) -> None:
    tqdm.write(f"not enhanced: {fault}", file=sys.stderr)


def _check_targets(job: Job, overwrite: bool) -> None:
    """Raise a UserError or OSError unless all results of a job can get their names."""
    for target in job.targets:
        try:
            os.lstat(target)
        except FileNotFoundError:
            continue
        if not overwrite:
            raise UserError(f"{target} exists: give --overwrite to replace it, --skip-existing to leave it, or another "
                            "--out")


if __name__ == "__main__":
    sys.exit(run_command(main))
