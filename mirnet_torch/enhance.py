"""Brighten photographs and videos: the command. `restoration.picture.enhance` does it for one image.

    python -m mirnet_torch.enhance PHOTO FOLDER ... --out DIR [--exposure EV] [--strength S] [--compare] [--frames]
    python -m mirnet_torch.enhance night.mp4 --out bright.mp4 [--exposure EV] [--checkpoint C]
    python -m mirnet_torch.enhance PHOTO ... --out DIR --checkpoint photo_any_size.onnx     # without PyTorch
    torchrun --nproc-per-node 8 -m mirnet_torch.enhance FOLDER --out DIR --skip-existing --failed failed.tsv

Files keep their names; a folder is searched with its subfolders, which are kept. The result has the format of the input
(JPEG for HEIC and RAW) and its 8 or, in PNG and TIFF, 16 bits; it is upright, with the input's alpha, resolution, XMP,
ICC profile and EXIF (without orientation and thumbnail; none in TIFF of 16-bit colours); WebP without loss stays so;
grey stays grey. CMYK becomes RGB; only the first frame is used.

PyTorch is imported only where it is used: a converted network needs none.
"""
from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Sequence

import numpy as np

from mirnet_torch.cli import (LARGEST_EXPOSURE, Parser, UserError, add_device_option, folder_path, make_folder, program,
                              require_extra, run_command)
from mirnet_torch.files.album import PATIENCE, Task, enhance_all, usable_threads
from mirnet_torch.files.folders import find_jobs
from mirnet_torch.files.images import SUFFIXES
from mirnet_torch.files.photographs import FORMATS
from mirnet_torch.files.video import VIDEO_SUFFIXES, WRITTEN_SUFFIXES, convert_video
from mirnet_torch.processes import own_device, processes, rank_and_world
from mirnet_torch.restoration.batches import THREADS, Batches, faster_in_batches
from mirnet_torch.restoration.converted import Converted, add_runtime_option, open_converted
from mirnet_torch.restoration.tiles import FEATHER

if TYPE_CHECKING:
    from mirnet_torch.presets import Network


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog=program("enhance", "python -m mirnet_torch.enhance"),
        description="Brighten photographs and videos with a MIRNet.",
        epilog="Exit status: 0 if every image was enhanced or skipped, 2 if not; the images that were not are named, "
               "and the others are done. The last line counts all, also files in formats that are not read.")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="an image, a folder of images and subfolders "
                        f"({', '.join(SUFFIXES)}), or a video alone ({', '.join(VIDEO_SUFFIXES)})")
    parser.add_argument("--out", required=True, type=folder_path, metavar="DIR",
                        help="folder for the results, created if needed; of a video the name of the result "
                             f"({', '.join(WRITTEN_SUFFIXES)})")
    parser.add_argument("--checkpoint", default="photo",
                        help="weights: a file, a preset whose weights ship with the package, or a converted network, "
                             ".onnx or .tflite (default: %(default)s)")
    parser.add_argument("--compare", action="store_true", help="also write NAME_compare: before and after side by side")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace results that exist")
    existing.add_argument("--skip-existing", action="store_true",
                          help="leave out inputs whose results exist, to go on after a stop")
    parser.add_argument("--exposure", type=float, default=0.0, metavar="EV",
                        help=f"how much brighter than the network's own choice, from -{LARGEST_EXPOSURE:g} to "
                             f"{LARGEST_EXPOSURE:g}; lamps do not burn (default: 0)")
    parser.add_argument("--strength", type=float, default=1.0, metavar="S",
                        help="how much of the result, from 0, the input, to 1 (default: 1)")
    parser.add_argument("--format", choices=FORMATS, help="of the results (default: that of the input; JPEG for HEIC "
                                                          "and RAW)")
    parser.add_argument("--quality", type=int, metavar="Q", help="of JPEG and WebP results, from 1 to 100 (default: "
                                                                 "95; WebP without loss stays so)")
    parser.add_argument("--failed", type=Path, metavar="FILE",
                        help="list the inputs that were not enhanced there, one a line: the name, a tab, the reason")
    parser.add_argument("--frames", action="store_true", help="the images of a folder are the frames of a video, in "
                        "the order of their names: brightness is kept steady from one to the next, as in a video")
    add_runtime_option(parser)
    add_tile_options(parser)
    add_device_option(parser)
    options = parser.parse_args(arguments)
    if not abs(options.exposure) <= LARGEST_EXPOSURE:
        parser.error(f"argument --exposure: must be from -{LARGEST_EXPOSURE:g} to {LARGEST_EXPOSURE:g} EV, not "
                     f"{options.exposure}")
    if not 0 <= options.strength <= 1:
        parser.error(f"argument --strength: must be from 0 to 1, not {options.strength}")
    if options.quality is not None and not 1 <= options.quality <= 100:
        parser.error(f"argument --quality: must be from 1 to 100, not {options.quality}")
    if options.frames and options.skip_existing:
        parser.error("--frames and --skip-existing exclude each other: the brightness would jump after the frames that "
                     "are left out; give --overwrite")
    check_tile_options(parser, options)
    return options


def add_tile_options(parser: argparse.ArgumentParser) -> None:
    """Add `--tile` and `--overlap` to a command's options; check them with `check_tile_options`."""
    parser.add_argument("--tile", type=int, metavar="N",
                        help="cut images into tiles of N pixels a side to limit memory; 0 never cuts. By default the "
                             "published network gets tiles of images beyond 640x640, for which it would take more than "
                             "about 2 GB; its tiles know the picture around them from a small copy only, so larger "
                             "ones are better. Of images beyond 172,800 pixels compact networks (photo, mcu) see a "
                             "small copy, which needs no tiles; photo then removes noise in tiles of 512")
    parser.add_argument("--overlap", type=int, metavar="M",
                        help="pixels over which neighbouring tiles fade into each other (default: "
                             f"{FEATHER}, or half of smaller tiles)")


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
    converted = open_converted(options)
    with processes(PATIENCE):
        world = rank_and_world()[1]
        if _is_video(options):
            _require(not converted, "a converted network would make a video flicker: give a checkpoint, which needs "
                                    "PyTorch")
            _require(world == 1, "a video is for one process: start it without torchrun")
            _enhance_video(options)
            return
        _require(world == 1 or not options.frames, "--frames is for one process: start it without torchrun")
        found = find_jobs(options.inputs, options.out, compare=options.compare, format=options.format)
        task = Task(lambda pixels, _: pixels)
        if found.jobs:
            task = _task_for(converted or _load(options), options)
        if summary := enhance_all(found, options.out, task, failed_list=options.failed):
            print(summary)


def _task_for(model: Network | Converted, options: argparse.Namespace) -> Task:
    """Return what is done to every photograph."""
    if isinstance(model, Converted):
        restore, channels, threads = _strengthened(model, options), model.channels, 1
    else:
        from mirnet_torch.compact import CompactMIRNet

        quick = isinstance(model, CompactMIRNet)
        restore, channels = _restorer(model, options, show_progress=not quick), model.config.in_channels
        threads = usable_threads() if quick and not options.frames else 1
        if quick and not options.frames and faster_in_batches(model):
            restore, threads = Batches(restore), THREADS
    return Task(restore, channels=channels, quality=options.quality, overwrite=options.overwrite,
                skip_existing=options.skip_existing, threads=threads)


def _strengthened(model: Converted, options: argparse.Namespace) -> Callable[[np.ndarray, str], np.ndarray]:
    """Return a function of pixels and their folder, for a converted network and the options' exposure and strength."""
    def restore(pixels: np.ndarray, _: str) -> np.ndarray:
        restored = model(pixels, exposure=options.exposure)
        if options.strength == 1:
            return restored
        mixed = pixels + options.strength * (restored.astype(np.float32) - pixels)
        return np.rint(mixed).astype(pixels.dtype)
    return restore


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise UserError(otherwise)


def _restorer(model: Network, options: argparse.Namespace, **more: Any) -> Callable[[np.ndarray, str], np.ndarray]:
    """Return a function of pixels and their folder; with --frames it keeps the brightness steady within a folder."""
    from mirnet_torch.restoration.picture import enhance
    from mirnet_torch.restoration.steady import SteadyMaps

    restore: Callable[..., np.ndarray] = partial(
        enhance, model, tile=options.tile, overlap=options.overlap, exposure=options.exposure,
        strength=options.strength, **more)
    steady, last = SteadyMaps(), None

    def restore_frame(pixels: np.ndarray, folder: str) -> np.ndarray:
        nonlocal steady, last
        if folder != last:
            steady, last = SteadyMaps(), folder
        return restore(pixels, steady=steady)
    return restore_frame if options.frames else lambda pixels, _: restore(pixels)


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
        if options.out.suffix.lower() in SUFFIXES and not options.out.is_dir():
            raise UserError(f"--out {options.out} names an image: give a folder, in which results have the names of "
                            "their inputs")
        return False
    if len(options.inputs) > 1 or not written:
        raise UserError(f"{videos[0]} is a video: give it alone, and --out the name of the result, such as bright.mp4 "
                        f"({', '.join(WRITTEN_SUFFIXES)})")
    for name in ("compare", "format", "quality", "failed", "frames"):
        _require(not getattr(options, name), f"--{name} is for images: leave it out for a video")
    return True


def _load(options: argparse.Namespace) -> Network:
    """Load the network.

    Raises:
        UserError: it cannot be used with the options, or PyTorch is not installed.
    """
    try:
        from mirnet_torch.checkpoint import load_model
        from mirnet_torch.compact import CompactMIRNet
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "safetensors"):
            raise
        raise UserError(f"the checkpoint {options.checkpoint} needs PyTorch: pip install torch safetensors, or give a "
                        "converted network, --checkpoint NAME_any_size.onnx") from None

    model = load_model(options.checkpoint, device=own_device(options.device))
    for name in ("exposure", "frames"):
        if getattr(options, name) and not isinstance(model, CompactMIRNet):
            raise UserError(f"--{name} needs a compact network, such as photo: {options.checkpoint} holds the "
                            "published one, which has no such control")
    if options.frames and options.tile is not None:
        raise UserError("--frames and --tile exclude each other: leave --tile out")
    return model


def _enhance_video(options: argparse.Namespace) -> None:
    require_extra("video", "enhancing a video")
    source = Path(options.inputs[0])
    if source.resolve() == options.out.resolve():
        raise UserError(f"the result would replace the input {source}: give another --out")
    if options.out.exists() and options.skip_existing:
        print(f"skipped: {options.out} exists")
        return
    if options.out.exists() and not options.overwrite:
        raise UserError(f"{options.out} exists: give --overwrite to replace it, --skip-existing to leave it, or "
                        "another --out")
    model = _load(options)
    from mirnet_torch.compact import CompactMIRNet
    from mirnet_torch.restoration.picture import enhance
    from mirnet_torch.restoration.steady import SteadyMaps

    steady = SteadyMaps() if isinstance(model, CompactMIRNet) and options.tile is None else None
    make_folder(options.out.parent)
    restore = partial(enhance, model, tile=options.tile, overlap=options.overlap, exposure=options.exposure,
                      strength=options.strength, steady=steady)
    try:
        frames = convert_video(source, options.out, restore)
    except (ValueError, FloatingPointError) as error:
        raise UserError(f"{source}: {error}") from None
    print(f"{frames} frames enhanced into {options.out}")


if __name__ == "__main__":
    sys.exit(run_command(main))
