"""Measure a network, and the untouched input, on pairs of dark and bright images: `evaluate` and the command

    python -m mirnet_torch.evaluate [--data DIR] [--checkpoint C] [--size 160x120] [--lpips] [--out DIR]

Without `--data` it uses the frames that training validates on: photographs inside scikit-image, darkened.

The protocol is that of `metrics.py`; with `--size` both images of a pair are cropped and box-filtered first. LPIPS is
that of Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018, on AlexNet.
"""
from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import io
import json
import math
import platform
import sys
import warnings
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from mirnet_torch import __version__
from mirnet_torch.checkpoint import load_model, weights_file
from mirnet_torch.cli import (UserError, add_device_option, atomic_path, folder_path, install_command, make_folder,
                              parse_size, pick_device, program, progress, refuse_existing, require_extra, run_command)
from mirnet_torch.data import Pair, find_pairs, validation_frames
from mirnet_torch.enhance import add_tile_options, check_tile_options, enhance
from mirnet_torch.images import side_by_side, to_tensor, write_image
from mirnet_torch.metrics import PROTOCOL, mean_score, psnr, ssim
from mirnet_torch.presets import Network

Metric = Callable[[np.ndarray, np.ndarray], float]  # (output, truth), uint8 (H, W, 3)
SHEET_ROWS = 12
SHEET_WIDTH = 300  # pixels of one picture on the contact sheet, at most
LPIPS_MINIMUM = 32  # AlexNet takes no smaller side


@dataclass(frozen=True)
class Scores:
    """How near an image is to the truth."""

    psnr: float  # dB
    ssim: float  # at most 1
    lpips: float | None = None  # a distance from 0 up; None: not measured


@dataclass(frozen=True)
class PairScores:
    """The scores of one pair: of the untouched dark image (`input`) and of the network's output."""

    name: str
    width: int
    height: int
    input: Scores
    output: Scores


@dataclass(frozen=True)
class Evaluation:
    """The scores of all pairs, and their means by `metrics.mean_score`."""

    pairs: list[PairScores]
    input: Scores
    output: Scores


def score(image: np.ndarray, truth: np.ndarray, lpips: Metric | None = None) -> Scores:
    """Measure one uint8 (H, W, 3) image against the truth. Raises what `metrics.psnr` raises."""
    return Scores(psnr(image, truth), ssim(image, truth), lpips(image, truth) if lpips else None)


def evaluate(model: Network, pairs: Sequence[Pair] | None, *, size: tuple[int, int] | None = None,
             lpips: Metric | None = None, tile: int | None = None, overlap: int | None = None,
             on_images: Callable[[int, Sequence[np.ndarray]], None] | None = None) -> Evaluation:
    """Measure a network on pairs.

    Args:
        model: an RGB network.
        pairs: what to measure on, see `data.find_pairs`; None: the embedded photographs of `data.validation_frames`.
        size: (width, height) to which both images are cropped and filtered, see `images.camera_size`; None: unchanged.
        lpips: a third metric, see `load_lpips`.
        tile: see `enhance`.
        overlap: see `enhance`.
        on_images: called with the number of a pair and its images (dark, output, truth).

    Raises:
        UserError: there are no pairs, an image cannot be read, the images of a pair differ in size, or the network
            does not take RGB images.
    """
    if model.config.in_channels != 3:
        raise UserError(f"only networks for RGB images are evaluated; this one has {model.config.in_channels} channels")
    if pairs is not None and not pairs:
        raise UserError("there are no pairs to evaluate on")
    scores = []
    frames = validation_frames(pairs, size)
    for index, (name, low, truth) in enumerate(progress(frames, desc="evaluate", unit="image", leave=False,
                                                        total=pairs and len(pairs))):
        if low.shape != truth.shape:
            raise UserError(f"{name}: the dark and the bright image differ in size")
        try:
            output = enhance(model, low, tile=tile, overlap=overlap)
        except (ValueError, FloatingPointError) as error:
            raise UserError(f"{name}: {error}") from None
        scores.append(PairScores(name, low.shape[1], low.shape[0], score(low, truth, lpips),
                                 score(output, truth, lpips)))
        if on_images:
            on_images(index, (low, output, truth))
    return Evaluation(scores, _mean([pair.input for pair in scores]), _mean([pair.output for pair in scores]))


def _mean(scores: Sequence[Scores]) -> Scores:
    distances = [each.lpips for each in scores if each.lpips is not None]
    return Scores(mean_score(each.psnr for each in scores), mean_score(each.ssim for each in scores),
                  mean_score(distances) if distances else None)


def load_lpips(device: str | torch.device = "cpu") -> Metric:
    """Return LPIPS as a metric; NaN for images with a side under 32 pixels.

    Raises:
        UserError: the package lpips is not installed, or AlexNet's weights are not cached and the download failed.
    """
    try:
        import lpips
        import torchvision
    except ImportError as error:
        raise UserError(f"--lpips needs the package {error.name}: {install_command('lpips')}") from None
    url = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # hides the download's progress
            warnings.simplefilter("ignore")
            network = lpips.LPIPS(net="alex", verbose=False).to(device).eval()
    except (OSError, RuntimeError, EOFError) as error:  # offline, or a damaged file
        cache = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
        raise UserError(f"--lpips needs AlexNet's weights and could not download them ({type(error).__name__}): "
                        f"download {url} on a computer that is online and put it at {cache}") from None

    @torch.no_grad()
    def distance(output: np.ndarray, truth: np.ndarray) -> float:
        if min(output.shape[:2]) < LPIPS_MINIMUM:
            return math.nan
        first, second = (to_tensor(image)[None].to(device) * 2 - 1 for image in (output, truth))
        return network(first, second).item()

    return distance


def contact_sheet(rows: Sequence[tuple[str, Sequence[np.ndarray]]]) -> Image.Image:
    """Put rows of pictures, uint8 (H, W, 3), below each other, with a line of text above each row."""
    strips = [(text, Image.fromarray(side_by_side(images))) for text, images in rows]
    line = 16
    sheet = Image.new("RGB", (max(max(strip.width for _, strip in strips), 240),
                              sum(strip.height + line for _, strip in strips)), "white")
    top = 0
    for text, strip in strips:
        ImageDraw.Draw(sheet).text((2, top + 2), text, fill="black")
        sheet.paste(strip, (0, top + line))
        top += line + strip.height
    return sheet


def _small(image: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(image)
    picture.thumbnail((SHEET_WIDTH, 10 * SHEET_WIDTH), Image.Resampling.BOX)
    return np.array(picture)


def write_report(evaluation: Evaluation, protocol: Mapping[str, Any], sheet: Image.Image, out: Path) -> None:
    """Write evaluation.json, evaluation.csv and contact_sheet.png, each whole or not at all.

    A missing score (NaN) is null in JSON and empty in CSV; an infinite one is "inf" in both.
    """
    content = {"protocol": dict(protocol), **asdict(evaluation)}
    with atomic_path(out / "evaluation.json") as path:
        path.write_text(json.dumps(_json(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with atomic_path(out / "evaluation.csv") as path, open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        names = [field.name for field in fields(Scores)]
        writer.writerow(["name", "width", "height", *(f"{which}_{name}" for which in ("input", "output")
                                                      for name in names)])
        for pair in evaluation.pairs:
            row = [getattr(scores, name) for scores in (pair.input, pair.output) for name in names]
            writer.writerow([pair.name, pair.width, pair.height, *map(_json, row)])
    write_image(sheet, out / "contact_sheet.png")


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_json(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf"
    return value


def _protocol(options: argparse.Namespace, model: Network) -> dict[str, Any]:
    """Return everything that is needed to repeat the measurement."""
    size = options.size and "{}x{}".format(*options.size)
    libraries = {}
    for name in ("torch", "numpy", "pillow", "scikit-image", *(["lpips"] if options.lpips else [])):
        with contextlib.suppress(PackageNotFoundError):
            libraries[name] = version(name)
    return {
        "metrics": PROTOCOL + (" LPIPS 0.1, AlexNet." if options.lpips else ""),
        "images": f"centre crop to the aspect of {size}, then box filter to {size}" if size else "as they are on disk",
        "size": size,
        "data": str(options.data) if options.data else "photographs inside scikit-image, darkened by the camera model",
        "split": options.split or "val where there is one, else all",
        "checkpoint": str(options.checkpoint),
        "checkpoint_sha256": hashlib.sha256(weights_file(options.checkpoint).read_bytes()).hexdigest(),
        "config": model.config.to_dict(),
        "tile": "automatic" if options.tile is None else options.tile,
        "overlap": "automatic" if options.overlap is None else options.overlap,
        "device": options.device,
        "versions": {"mirnet_torch": __version__, "python": platform.python_version(), **libraries},
    }


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program("evaluate", "python -m mirnet_torch.evaluate"),
                                     description="Measure PSNR and SSIM of a MIRNet and of the untouched input.",
                                     epilog=PROTOCOL)
    parser.add_argument("--data", type=Path, metavar="DIR",
                        help="pairs in DIR/{low,high}, DIR/{train,val}/{low,high} or DIR/{our485,eval15}/{low,high} "
                             "(default: photographs inside scikit-image, darkened)")
    parser.add_argument("--split", choices=("train", "val"),
                        help="which part of the pairs (default: val where there is one, else all)")
    parser.add_argument("--checkpoint", default="mcu", help="weights: a file, or a preset whose weights ship with the "
                                                            "package (default: %(default)s)")
    parser.add_argument("--size", type=parse_size, metavar="WxH",
                        help="measure at camera size: centre crop to this aspect, then box filter; 160x120 is the "
                             "microcontroller's")
    parser.add_argument("--lpips", action="store_true",
                        help="also measure LPIPS with AlexNet, whose weights are downloaded once")
    parser.add_argument("--out", type=folder_path, metavar="DIR",
                        help="also write evaluation.json, evaluation.csv and contact_sheet.png (dark, output, truth) "
                             "there")
    parser.add_argument("--overwrite", action="store_true", help="replace files in --out that exist")
    add_tile_options(parser)
    add_device_option(parser)
    options = parser.parse_args(arguments)
    check_tile_options(parser, options)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with its arguments (default: those of the process).

    Raises:
        UserError: see `evaluate`; or `--out` already has results.
    """
    options = _arguments(arguments)
    require_extra("train", "evaluating")
    device = pick_device(options.device)
    if options.out:
        make_folder(options.out)
        if not options.overwrite:
            refuse_existing(options.out, ("evaluation.json", "evaluation.csv", "contact_sheet.png"))
    lpips = load_lpips(device) if options.lpips else None
    model = load_model(options.checkpoint, device=device)
    protocol = _protocol(options, model)
    pairs = find_pairs(options.data, options.split) if options.data else None
    count = len(pairs) if pairs else SHEET_ROWS
    shown = set(np.linspace(0, count - 1, min(SHEET_ROWS, count)).round().astype(int).tolist())
    pictures: dict[int, list[np.ndarray]] = {}

    def keep(index: int, images: Sequence[np.ndarray]) -> None:
        if index in shown:
            pictures[index] = [_small(image) for image in images]

    evaluation = evaluate(model, pairs, size=options.size, lpips=lpips, tile=options.tile, overlap=options.overlap,
                          on_images=keep)
    _print(evaluation, protocol)
    if options.out:
        rows = [(f"{evaluation.pairs[index].name}: {evaluation.pairs[index].input.psnr:.2f} -> "
                 f"{evaluation.pairs[index].output.psnr:.2f} dB", images) for index, images in pictures.items()]
        write_report(evaluation, protocol, contact_sheet(rows), options.out)
        print(f"written: evaluation.json, evaluation.csv and contact_sheet.png in {options.out}")


def _print(evaluation: Evaluation, protocol: Mapping[str, Any]) -> None:
    """Print a row for every pair, the means, and the protocol."""
    names = ["psnr", "ssim"] + (["lpips"] if evaluation.output.lpips is not None else [])
    rows = [(pair.name, pair.input, pair.output) for pair in evaluation.pairs]
    rows.append((f"mean of {len(rows)}", evaluation.input, evaluation.output))
    label = max(len("image"), *(len(row[0]) for row in rows))
    print(f"{'image':{label}}" + "".join(f"  {which + ' ' + name.upper():>12}" for which in ("input", "output")
                                         for name in names))
    for text, *scores in rows:
        print(f"{text:{label}}" + "".join(f"  {getattr(each, name):12.{2 if name == 'psnr' else 4}f}"
                                          for each in scores for name in names))
    print(f"input: the dark images untouched; output: {protocol['checkpoint']} "
          f"(SHA-256 {protocol['checkpoint_sha256'][:16]})\nimages: {protocol['images']}\n{protocol['metrics']}")


if __name__ == "__main__":
    sys.exit(run_command(main))
