"""Measure a network, finished pictures of other methods, and the untouched input: `evaluate` and the command

    python -m mirnet_torch.evaluate [--data DIR] [--checkpoint C] [--size 160x120] [--out DIR]
    python -m mirnet_torch.evaluate --low DARK --high BRIGHT --results THEIRS --results OURS
    python -m mirnet_torch.evaluate --data DIR --checkpoint photo --beside mcu --beside gamma+denoise
    python -m mirnet_torch.evaluate --nights PANORAMAS --checkpoint photo

Without `--data` it uses the frames that training validates on: photographs inside scikit-image, darkened.

The protocol is that of `metrics.py`; with `--size` all images are cropped and box-filtered first. Every mean has a 95 %
interval, and every two methods a difference, see `intervals.py`.
"""
from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import json
import math
import platform
import sys
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image

from mirnet_torch import __version__
from mirnet_torch.checkpoint import load_model, weights_file
from mirnet_torch.cli import (Parser, UserError, add_device_option, atomic_path, folder_path, make_folder, parse_size,
                              pick_device, program, progress, refuse_existing, require_extra, run_command)
from mirnet_torch.enhance import add_tile_options, check_tile_options
from mirnet_torch.files.images import camera_size, read_image, write_image
from mirnet_torch.measures.classical import METHODS, TUNING_SIZE, Method, best_gamma, darkened, open_methods
from mirnet_torch.measures.contact_sheet import contact_sheet, thumbnail
from mirnet_torch.measures.intervals import FEWEST, Difference, Interval, bootstrap, paired
from mirnet_torch.measures.metrics import METRICS, PROTOCOL, Metric
from mirnet_torch.measures.nights import Night, described, night_figures, night_frames
from mirnet_torch.measures.perceptual import load_iqa, load_lpips
from mirnet_torch.presets import PRESETS, Network
from mirnet_torch.restoration.picture import enhance
from mirnet_torch.scenes.sources import (LAYOUTS, Pair, find_pairs, find_results, has_parts, match_pairs, split_pairs,
                                         validation_frames)

Scores = dict[str, float]  # by the name of the metric
INPUT, OUTPUT = "input", "output"  # the untouched image and the network's, among the methods
NIGHT_SIZE = (480, 360)
NIGHTS_SEED = 0
SHEET_ROWS = 12
SHEET_WIDTH = 300  # pixels of one picture on the contact sheet, at most


@dataclass(frozen=True)
class PairScores:
    """The scores of one pair, by method: of the dark image (`INPUT`), the network's output and other results."""

    name: str
    width: int
    height: int
    scores: dict[str, Scores]


@dataclass(frozen=True)
class Evaluation:
    """The scores of all pairs, their means by method and metric, and how the methods differ from the first of them."""

    pairs: list[PairScores]
    means: dict[str, dict[str, Interval]]
    differences: list[Difference]


def evaluate(model: Network | None, pairs: Sequence[Pair] | None, *, size: tuple[int, int] | None = None,
             metrics: Sequence[Metric] = METRICS, beside: Mapping[str, Method] | None = None,
             results: Mapping[str, Sequence[Path]] | None = None, nights: Sequence[Night] | None = None,
             tile: int | None = None, overlap: int | None = None,
             on_images: Callable[[int, Sequence[np.ndarray]], None] | None = None) -> Evaluation:
    """Measure a network and finished pictures on pairs.

    Args:
        model: an RGB network, or None.
        pairs: what to measure on, see `sources.find_pairs`; None: the embedded photographs,
            `sources.validation_frames`.
        size: (width, height) to which all images are cropped and filtered, see `images.camera_size`; None: unchanged.
            Finished pictures that have this size stay as they are.
        metrics: what to measure, see also `perceptual`.
        beside: other methods by name, each from a dark image to a bright one.
        results: by the name of a method its finished pictures, see `sources.find_results`.
        nights: what to measure on instead of pairs.
        tile: see `enhance`.
        overlap: see `enhance`.
        on_images: called with the number of a pair and its images: the dark one, one for every method, the truth.

    Raises:
        UserError: there are no pairs, an image cannot be read, the images of a pair differ in size, or the network
            does not take RGB images.
    """
    if model is not None and model.config.in_channels != 3:
        raise UserError(f"only networks for RGB images are evaluated; this one has {model.config.in_channels} channels")
    if pairs is not None and not pairs:
        raise UserError("there are no pairs to evaluate on")
    found = []
    frames: Iterable[tuple[str, np.ndarray, np.ndarray]] = validation_frames(pairs, size)
    if nights is not None:
        frames = [(night.name, night.dark, night.truth) for night in nights]
    for index, (name, low, truth) in enumerate(progress(frames, desc="evaluate", unit="image", leave=False,
                                                        total=pairs and len(pairs))):
        if low.shape != truth.shape:
            raise UserError(f"{name}: the dark and the bright image differ in size")
        images = {INPUT: low}
        if model is not None:
            try:
                images[OUTPUT] = enhance(model, low, tile=tile, overlap=overlap)
            except (ValueError, FloatingPointError) as error:
                raise UserError(f"{name}: {error}") from None
        for method, restore in (beside or {}).items():
            try:
                images[method] = restore(low)
            except (ValueError, FloatingPointError) as error:
                raise UserError(f"{name}: {method}: {error}") from None
        for method, files in (results or {}).items():
            picture = read_image(files[index])
            images[method] = picture if size in (None, picture.shape[1::-1]) else camera_size(picture, size)
            if picture.shape != truth.shape and images[method].shape != truth.shape:
                raise UserError(f"{files[index]} and its truth differ in size")
        found.append(PairScores(name, low.shape[1], low.shape[0], {
            method: {metric.name: metric.measure(image, truth) for metric in metrics}
            for method, image in images.items()}))
        if on_images:
            on_images(index, (*images.values(), truth))
    return summarise(found, [metric.name for metric in metrics])


def summarise(pairs: list[PairScores], metrics: Sequence[str]) -> Evaluation:
    """Return the means of scores, and the differences of the methods from the first one after the input."""
    methods = list(pairs[0].scores)

    def scores(method: str, metric: str) -> list[float]:
        return [pair.scores[method][metric] for pair in pairs]
    reference, *others = methods[1:] or [INPUT]
    return Evaluation(pairs, {method: {metric: bootstrap(scores(method, metric)) for metric in metrics}
                              for method in methods},
                      [Difference(method, reference, metric, paired(scores(method, metric), scores(reference, metric)))
                       for method in others for metric in metrics])


def write_report(evaluation: Evaluation, protocol: Mapping[str, Any], sheet: Image.Image, out: Path) -> None:
    """Write evaluation.json, evaluation.csv and contact_sheet.png, each whole or not at all.

    A missing score (NaN) is null in JSON and empty in CSV; an infinite one is "inf" in both.
    """
    content = {"protocol": dict(protocol), **asdict(evaluation)}
    with atomic_path(out / "evaluation.json") as path:
        path.write_text(json.dumps(_json(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with atomic_path(out / "evaluation.csv") as path, open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        columns = [(method, metric) for method, scores in evaluation.means.items() for metric in scores]
        writer.writerow(["name", "width", "height", *map("_".join, columns)])
        for pair in evaluation.pairs:
            writer.writerow([pair.name, pair.width, pair.height,
                             *(_json(pair.scores[method][metric]) for method, metric in columns)])
    write_image(sheet, out / "contact_sheet.png")


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_json(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf"
    return value


def _protocol(options: argparse.Namespace, model: Network | None, metrics: Sequence[Metric],
              beside: Mapping[str, dict[str, Any]], results: Mapping[str, Path],
              device: torch.device) -> dict[str, Any]:
    """Return everything that is needed to repeat the measurement."""
    size = options.size and "{}x{}".format(*options.size)
    libraries = {}
    for name in ("torch", "numpy", "pillow", "scikit-image", *(["lpips"] if options.lpips else []),
                 *(["pyiqa"] if options.iqa else [])):
        with contextlib.suppress(PackageNotFoundError):
            libraries[name] = version(name)
    images = f"centre crop to the aspect of {size}, then box filter to {size}" if size else "as they are on disk"
    if options.nights:
        images = "views of {}x{}".format(*options.size or NIGHT_SIZE)
    data = f"{options.low} and {options.high}" if options.low else str(options.data) if options.data else \
        f"views of held-out panoramas of {options.nights}" if options.nights else \
        "photographs inside scikit-image, darkened by the camera model"
    return {
        "metrics": PROTOCOL + (" LPIPS 0.1, AlexNet." if options.lpips else "")
        + (f" Of pyiqa: {', '.join(options.iqa)}." if options.iqa else ""),
        "lower_is_better": [metric.name for metric in metrics if metric.lower_is_better],
        "intervals": "95 %, expanded percentile bootstrap over the pictures with 10,000 resamples, seed 0",
        "images": images,
        "size": size,
        "data": data,
        "seed_of_nights": NIGHTS_SEED if options.nights else None,
        "split": options.split or "val where there is one, else all",
        "results": {name: str(folder) for name, folder in results.items()},
        "beside": beside,
        **(_network_record(options.checkpoint, model) if model else dict.fromkeys(
            ("checkpoint", "checkpoint_sha256", "config"))),
        "tile": "automatic" if options.tile is None else options.tile,
        "overlap": "automatic" if options.overlap is None else options.overlap,
        "device": str(device),
        "versions": {"mirnet_torch": __version__, "python": platform.python_version(), **libraries},
    }


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog=program("evaluate", "python -m mirnet_torch.evaluate"), epilog=PROTOCOL,
        description="Measure PSNR, SSIM and CIEDE2000 of a MIRNet, of finished pictures of other methods, and of the "
                    "untouched input, with 95 % intervals.")
    parser.add_argument("--data", type=folder_path, metavar="DIR",
                        help=f"folder of pairs: {LAYOUTS} (default: photographs inside scikit-image, darkened)")
    parser.add_argument("--low", type=folder_path, metavar="DIR", help="instead of --data: the dark images, ...")
    parser.add_argument("--high", type=folder_path, metavar="DIR",
                        help="... and the bright ones, of the same names up to the suffix")
    parser.add_argument("--nights", type=folder_path, metavar="DIR",
                        help="instead of --data: panoramas of linear light (.hdr); views of those held out are exposed "
                             "as nights, and what must not happen around lamps is counted")
    parser.add_argument("--split", choices=("train", "val"),
                        help="which part of the pairs (default: val where there is one, else all)")
    parser.add_argument("--checkpoint", help="weights: a file, or a preset whose weights ship with the package "
                                             "(default: photo, and no network with --results)")
    parser.add_argument("--beside", metavar="NAME", action="append", default=[],
                        help=f"also measure this: {', '.join(METHODS)} (the gamma is the best one for the training "
                             "pairs of --data, else for darkened photographs of scikit-image), or another checkpoint "
                             "or preset; may be given more than once")
    parser.add_argument("--results", type=folder_path, metavar="DIR", action="append", default=[],
                        help="finished pictures of any method, named as the dark or the bright images; may be given "
                             "more than once")
    parser.add_argument("--size", type=parse_size, metavar="WxH",
                        help="measure at camera size: centre crop to this aspect, then box filter; 160x120 is the "
                             "microcontroller's")
    parser.add_argument("--lpips", action="store_true",
                        help="also measure LPIPS with AlexNet, whose weights are downloaded once")
    parser.add_argument("--iqa", metavar="NAME", action="append", default=[],
                        help="also measure this metric of pyiqa, such as niqe, musiq, topiq_fr; may be given more than "
                             "once. Most download weights once; piqe needs none")
    parser.add_argument("--out", type=folder_path, metavar="DIR",
                        help="also write evaluation.json, evaluation.csv and contact_sheet.png there")
    parser.add_argument("--overwrite", action="store_true", help="replace files in --out that exist")
    add_tile_options(parser)
    add_device_option(parser)
    options = parser.parse_args(arguments)
    check_tile_options(parser, options)
    if (options.low is None) != (options.high is None) or options.low and options.data:
        parser.error("--low and --high belong together, and take the place of --data")
    if options.nights and (options.data or options.low or options.results):
        parser.error("--nights takes the place of --data, --low and --high, and there are no finished pictures of it")
    if options.results and not (options.data or options.low):
        parser.error("--results needs the pairs that the pictures were made from: give --data, or --low and --high")
    if options.checkpoint is None and not options.results:
        options.checkpoint = "photo"
    return options


def _name_methods(beside: Sequence[str], results: Sequence[Path]) -> tuple[dict[str, str], dict[str, Path]]:
    """Return what --beside and --results give by names, no two alike.

    Methods and presets keep their names. A checkpoint has its stem and a folder of pictures its name; if that is taken,
    the path as it was given; if that is taken, too, the whole path.
    """
    own = [name for name in beside if name in METHODS or name in PRESETS]
    taken = {INPUT, OUTPUT, *METHODS, *own}

    def free(path: Path, short: str) -> str:
        name = next(each for each in (short, str(path), str(path.resolve())) if each not in taken)
        taken.add(name)
        return name

    given = {name if name in own else Path(name).resolve(): name for name in beside}
    folders = {folder.resolve(): folder for folder in results}
    return ({name if name in own else free(Path(name), Path(name).stem): name for name in given.values()},
            {free(folder, resolved.name): folder for resolved, folder in folders.items()})


def _open_beside(names: Mapping[str, str], options: argparse.Namespace,
                 device: torch.device) -> tuple[dict[str, Method], dict[str, dict[str, Any]]]:
    """Return the methods of --beside by name, and what the protocol tells of each."""
    methods: dict[str, Method] = {}
    records: dict[str, dict[str, Any]] = {}
    known: dict[str, Method] = {}
    tuning: dict[str, Any] = {}
    for name, given in names.items():
        if given in METHODS:
            if not known:
                train = find_pairs(options.data, "train") if options.data else None
                exponent = best_gamma([pair[1:] for pair in validation_frames(train, TUNING_SIZE)] if train
                                      else darkened())
                known = open_methods(exponent)
                tuning = {"exponent": exponent, "tuned_on": f"the training pairs of {options.data}" if train
                          else "darkened photographs of scikit-image"}
            methods[name], records[name] = known[given], tuning if given.startswith("gamma") else {}
        else:
            model = load_model(given, device=device)
            methods[name] = partial(enhance, model, tile=options.tile, overlap=options.overlap)
            records[name] = _network_record(given, model)
    return methods, records


def _network_record(checkpoint: str | Path, model: Network) -> dict[str, Any]:
    """Return what the protocol tells of a network."""
    return {"checkpoint": str(checkpoint),
            "checkpoint_sha256": hashlib.sha256(weights_file(checkpoint).read_bytes()).hexdigest(),
            "config": model.config.to_dict()}


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
    metrics = [*METRICS, *([load_lpips(device)] if options.lpips else []),
               *(load_iqa(name, device) for name in options.iqa)]
    model = load_model(options.checkpoint, device=device) if options.checkpoint else None
    others, folders = _name_methods(options.beside, options.results)
    pairs = find_pairs(options.data, options.split) if options.data else None
    nights = night_frames(options.nights, options.size or NIGHT_SIZE, seed=NIGHTS_SEED) if options.nights else None
    if options.low:
        pairs = split_pairs(match_pairs(options.low, options.high), options.split)
    results = {name: find_results(folder, pairs or [], options.size) for name, folder in folders.items()}
    count = len(pairs or nights or range(SHEET_ROWS))
    of_nights: dict[int, list[np.ndarray]] = {}
    shown = set(np.linspace(0, count - 1, min(SHEET_ROWS, count)).round().astype(int).tolist())
    pictures: dict[int, list[np.ndarray]] = {}

    def keep(index: int, images: Sequence[np.ndarray]) -> None:
        if index in shown:
            pictures[index] = [thumbnail(image, SHEET_WIDTH) for image in images]
        if nights:
            for position, image in enumerate(images[1:-1]):
                of_nights.setdefault(position, []).append(image)

    beside, records = _open_beside(others, options, device)
    protocol = _protocol(options, model, metrics, records, folders, device)
    evaluation = evaluate(model, pairs, size=options.size, metrics=metrics, beside=beside, results=results,
                          nights=nights, tile=options.tile, overlap=options.overlap, on_images=keep)
    _print(evaluation, metrics, protocol)
    if pairs and len(pairs) > 1 and options.split is None and not (options.data and has_parts(options.data)) \
            and {options.checkpoint, *options.beside} - {None, *METHODS, *PRESETS}:
        held_out = len(split_pairs(pairs, "val"))
        print(f"pairs: all {len(pairs)}. A network that was trained on them knows {len(pairs) - held_out}: "
              f"--split val measures the other {held_out}")
    for method, images in zip(list(evaluation.means)[1:], of_nights.values()):
        print(f"{method}: {described(night_figures(images, nights or []))}")
    if options.out:
        write_report(evaluation, protocol, _sheet(evaluation, pictures, protocol), options.out)
        print(f"written: evaluation.json, evaluation.csv and contact_sheet.png in {options.out}")


def _sheet(evaluation: Evaluation, pictures: Mapping[int, Sequence[np.ndarray]],
           protocol: Mapping[str, Any]) -> Image.Image:
    methods = [method for method in evaluation.means if method != INPUT]
    heads = [Path(protocol["checkpoint"]).stem if method == OUTPUT else method for method in methods]
    rows = []
    for index, images in pictures.items():
        pair = evaluation.pairs[index]
        scores = [f"{pair.scores[method]['psnr']:.2f} dB" for method in (INPUT, *methods)]
        rows.append(([f"{pair.name}: {scores[0]}", *scores[1:], ""], images))
    return contact_sheet(rows, ["dark", *heads, "original"])


def _print(evaluation: Evaluation, metrics: Sequence[Metric], protocol: Mapping[str, Any]) -> None:
    """Print the scores of every pair, the means, the differences and the protocol."""
    cells = [["image", *(f"{method} {metric.label}" for method in evaluation.means for metric in metrics)]]
    cells += [[pair.name, *(f"{pair.scores[method][metric.name]:.{metric.digits}f}" for method in evaluation.means
                            for metric in metrics)] for pair in evaluation.pairs]
    _print_table(cells)
    print(f"\nmean of {len(evaluation.pairs)}, with 95 % intervals")
    cells = [["", *(metric.label for metric in metrics)]]
    cells += [[method, *(_shown(means[metric.name], metric) for metric in metrics)]
              for method, means in evaluation.means.items()]
    _print_table(cells)
    if evaluation.differences:
        print("\ndifferences, picture by picture")
        by_name = {metric.name: metric for metric in metrics}
        _print_table([[f"{each.method} - {each.reference}", by_name[each.metric].label,
                       _shown(each.interval, by_name[each.metric], sign="+"), _said(each, by_name[each.metric])]
                      for each in evaluation.differences])
    print()
    if protocol["checkpoint"]:
        print(f"output: {protocol['checkpoint']} (SHA-256 {protocol['checkpoint_sha256'][:16]})")
    print(f"input: the dark images untouched\nimages: {protocol['images']}\nintervals: {protocol['intervals']}\n"
          f"{protocol['metrics']}")


def _shown(interval: Interval, metric: Metric, *, sign: str = "") -> str:
    form = f"{sign}.{metric.digits}f"
    ends = "" if math.isnan(interval.low) else f" [{interval.low:{form}}, {interval.high:{form}}]"
    return f"{interval.mean:{form}}{ends}"


def _said(difference: Difference, metric: Metric) -> str:
    """Return what a difference says."""
    if math.isnan(difference.interval.low):
        return f"no difference shown: an interval needs {FEWEST} pictures"
    if difference.interval.holds_zero:
        return "no difference shown"
    return "better" if (difference.interval.mean > 0) != metric.lower_is_better else "worse"


def _print_table(cells: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*cells)]
    for row in cells:
        print("  ".join(f"{cell:{'<' if i == 0 else '>'}{width}}" for i, (cell, width) in enumerate(zip(row, widths)))
              .rstrip())


if __name__ == "__main__":
    sys.exit(run_command(main))
