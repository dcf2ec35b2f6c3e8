"""Judge the pictures that the board makes: the int8 model and the sketch's integer arithmetic, frame by frame.

    python conversion/judge.py                                      the shipped model on photographs inside scikit-image
    python conversion/judge.py --data LOL --out build/judged        on the validation pairs of a data set
    python conversion/judge.py --nights PANORAMAS                   also on views of panoramas with lamps
    python conversion/judge.py --noise 4                            also noisy frames, and the mean of several
    python conversion/judge.py --checkpoint best.safetensors --model build/best/best_int8.tflite --data LOL

Prints PSNR, SSIM and PSNR with the brightness of the truth, also for methods without a network: the untouched frame,
the best single gamma (chosen on the training pairs) and histogram equalisation of the brightness. With the best
exposure every picture is restored at the one from -2 to 2 EV that comes nearest to its truth. Then it prints faults
that these figures hide: a grid at the edges of cells, a colour cast on grey ramps, burnt bright parts, changes of
normally lit pictures. --out writes judgement.json and sheets of pictures (dark, float32, board, truth).
"""
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Sequence

if not __package__:  # run as a script: this folder's modules must not hide others of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from conversion.mirnet.pixels import EXPOSURE_STEPS  # noqa: E402
from conversion.mirnet.sketch import SKETCH, runs_on_board  # noqa: E402
from mirnet_torch.checkpoint import WEIGHTS, load_model  # noqa: E402
from mirnet_torch.cli import (Parser, UserError, atomic_path, folder_path, make_folder, progress,  # noqa: E402
                              refuse_existing, require_extra, run_command)
from mirnet_torch.compact import CompactMIRNet  # noqa: E402
from mirnet_torch.files.images import write_image  # noqa: E402
from mirnet_torch.measures.classical import best_gamma, darkened, equalise_histogram, gamma  # noqa: E402
from mirnet_torch.measures.contact_sheet import contact_sheet  # noqa: E402
from mirnet_torch.measures.metrics import mean_score, psnr, psnr_at_best_gain, ssim  # noqa: E402
from mirnet_torch.measures.nights import Night, described, judge_nights, night_frames, robustness  # noqa: E402
from mirnet_torch.restoration.picture import enhance  # noqa: E402
from mirnet_torch.scenes.camera import to_rgb565, to_yuv422  # noqa: E402
from mirnet_torch.scenes.sources import LAYOUTS, find_split, validation_frames  # noqa: E402

Picture = np.ndarray  # uint8 (H, W, 3)
EXPOSURES = np.arange(-2 * EXPOSURE_STEPS, 2 * EXPOSURE_STEPS + 1)  # steps of the sketch's protocol: -2 to 2 EV
STILLS = (1, 4, 8)  # frames of a mean
CAMERA_SIZE = SKETCH.frame
SHEET_ROWS = 20
BRIGHT, NEARLY_WHITE = 128, 240  # levels of the brightest channel


@dataclass(frozen=True)
class Quality:
    """How near pictures are to the truth; means over the frames."""

    psnr: float  # dB
    ssim: float
    psnr_at_best_gain: float  # dB; PSNR after every picture gets the brightness of its truth


@dataclass(frozen=True)
class Artifacts:
    """Faults that PSNR and SSIM hide."""

    grid: float
    """Mean gradient across the edges of the network's cells over that inside them, divided by the same of the truth; 1
    without a grid."""
    cast: float
    """Mean distance in levels of a channel from the mean of the three, on dim and bright grey ramps."""
    burnt: float
    """Share of the bright pixels of normally lit frames that have a clipped channel now and were not nearly white."""
    lit_psnr: float
    """PSNR of restored normally lit frames against the frames themselves, dB."""
    lit_gain: float
    """Mean brightness of these restored frames, relative to the frames."""


def open_board(tflite: Path) -> tuple[Callable[..., Picture], int]:
    """Return a function that computes what the sketch does, byte for byte, and the side of a cell in pixels.

    The function takes a dark picture and the exposure in steps of 1/8 EV, 0 by default.

    Raises:
        UserError: the file is missing, or is not an int8 model that the sketch can use.
    """
    from conversion.bridge.graph import read_graph
    from conversion.bridge.runtimes import open_stage
    from conversion.mirnet.pixels import apply_maps, head_tables, model_input

    graph = read_graph(tflite)
    shapes = [tensor.shape for tensor in (*graph.inputs, *graph.outputs)]
    width, height = CAMERA_SIZE
    cell = width // shapes[0][2] if len(shapes[0]) == 4 and shapes[0][2] else 0
    if not cell or shapes != [(1, height // cell, width // cell, 3 * cell * cell),
                              (1, height // cell, width // cell, 15)] or graph.inputs[0].dtype != "int8":
        raise UserError(f"{tflite} is not an int8 model for frames of {width}x{height}: give one that to_tflite.py "
                        "made with --target arduino-tflm")
    stage, maps = open_stage(tflite, runtime="tflite-micro"), graph.outputs[0]
    tables = head_tables(maps.scale, maps.zero_point, cell=cell)

    @functools.lru_cache(maxsize=1)
    def maps_of(cells: bytes, shape: tuple[int, ...]) -> np.ndarray:
        core = (np.frombuffer(cells, np.int8).reshape(shape).astype(np.float32) + 128) / 255
        return stage.run_raw(core[None])[0]

    def restore(dark: Picture, steps: int = 0) -> Picture:
        cells = model_input(dark, cell=cell)
        return apply_maps(dark, maps_of(cells.tobytes(), cells.shape), tables, exposure=steps)
    return restore, cell


def at_best_exposure(restore: Callable[[Picture, int], Picture], dark: Picture, truth: Picture) -> Picture:
    """Return the picture restored at the exposure from `EXPOSURES` that comes nearest to its truth."""
    return max((restore(dark, int(steps)) for steps in EXPOSURES), key=lambda picture: psnr(picture, truth))


def noisy_mean(frame: Picture, count: int, levels: float) -> Picture:
    """Return the mean of `count` frames in YUV 4:2:2, each with Gaussian noise of so many levels of its own.

    The viewer's --still lets the board take such a mean, of the bytes of its frames instead of their colours.
    """
    rng = np.random.default_rng(zlib.crc32(frame.tobytes()))
    shots = (frame + rng.normal(0, levels, frame.shape) for _ in range(count))
    return np.rint(np.mean([to_yuv422(np.rint(shot).clip(0, 255).astype(np.uint8)) for shot in shots], 0)
                   ).astype(np.uint8)


def quality_of(pictures: Sequence[Picture], truths: Sequence[Picture]) -> Quality:
    """Measure pictures against the truth."""
    pairs = list(zip(pictures, truths))
    return Quality(*(mean_score(measure(*pair) for pair in pairs) for measure in (psnr, ssim, psnr_at_best_gain)))


def find_artifacts(restore: Callable[[Picture], Picture], pictures: Sequence[Picture], truths: Sequence[Picture],
                   cell: int) -> Artifacts:
    """Measure the faults that quality figures hide.

    Args:
        restore: the method under test; it is also run on the truths, which are normally lit, and on grey ramps.
        pictures: its results for dark frames.
        truths: the truths of these frames.
        cell: side of the network's cells in pixels.
    """
    lit = [restore(truth) for truth in truths]
    bright, white, clipped = (np.concatenate([test(picture.max(2)).ravel() for picture in group]) for group, test in (
        (truths, lambda level: level >= BRIGHT), (truths, lambda level: level > NEARLY_WHITE),
        (lit, lambda level: level == 255)))
    height, width, _ = truths[0].shape
    ramps = [np.broadcast_to(np.linspace(0, top, width).round().astype(np.uint8)[None, :, None],
                             (height, width, 3)) for top in (40, 90, 255)]
    casts = [np.abs(grey - grey.mean(2, keepdims=True)).mean() for grey in (restore(ramp) * 1.0 for ramp in ramps)]
    return Artifacts(grid=block_edges(pictures, cell) / block_edges(truths, cell), cast=float(np.mean(casts)),
                     burnt=float((bright & clipped & ~white).sum() / max(bright.sum(), 1)),
                     lit_psnr=quality_of(lit, truths).psnr, lit_gain=float(np.mean(lit) / np.mean(truths)))


def block_edges(pictures: Sequence[Picture], cell: int) -> float:
    """Return the mean gradient across the edges of cells over that inside them."""
    edges, inner = [], []
    for picture in pictures:
        for axis in (0, 1):
            steps = np.abs(np.diff(picture.astype(int), axis=axis)).mean(axis=(1 - axis, 2))
            at_edge = np.arange(1, len(steps) + 1) % cell == 0
            edges.append(steps[at_edge].mean())
            inner.append(steps[~at_edge].mean())
    return float(np.sum(edges) / np.sum(inner))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        UserError: the model, the checkpoint or the data cannot be used.
    """
    options = _parser().parse_args(arguments)
    require_extra("convert", "judging")
    nights = _nights(options.nights) if options.nights else {}
    if (options.checkpoint is None) != (options.model is None):
        raise UserError("--checkpoint and --model belong together, the network and the int8 model made from it: give "
                        "both")
    tflite = options.model or WEIGHTS / "mcu_int8.tflite"
    network = load_model(options.checkpoint or "mcu")
    if not isinstance(network, CompactMIRNet) or not runs_on_board(network.config):
        raise UserError(f"{options.checkpoint} holds a network that runs on no board: give one like mcu")
    board, cell = open_board(tflite)
    if cell != network.config.cell:
        raise UserError(f"{tflite} was not made from {options.checkpoint}: it has cells of {cell} pixels, the network "
                        f"of {network.config.cell}")
    out = make_folder(options.out) if options.out else None
    if out and not options.overwrite:
        refuse_existing(out, ("judgement.json", "contact_sheet.png", "nights.png"))
    train, val = find_split(options.data) if options.data else (None, None)
    frames = list(validation_frames(val, CAMERA_SIZE))
    dark, truth = [frame for _, frame, _ in frames], [frame for _, _, frame in frames]
    tuning = [(low, high) for _, low, high in validation_frames(train, CAMERA_SIZE)] if train else darkened()

    with progress(total=10 + len(STILLS) * bool(options.noise), desc="judge", unit="step") as bar:
        def step(value: Any) -> Any:
            bar.update()
            return value
        exponent = step(best_gamma(tuning))

        def float32(frame: Picture, steps: int = 0) -> Picture:
            return enhance(network, frame, exposure=steps / EXPOSURE_STEPS)
        methods: dict[str, Callable[[Picture], Picture]] = {
            "untouched": lambda frame: frame, f"gamma {exponent:.2f}": lambda frame: gamma(frame, exponent),
            "histogram equalisation": equalise_histogram, "float32": float32, "board": board,
            "board, YUV422 frame": lambda frame: board(to_yuv422(frame)),
            "board, RGB565 frame": lambda frame: board(to_rgb565(frame))}
        for count in STILLS if options.noise else ():
            methods[f"board, noise, mean of {count}"] = lambda frame, count=count: board(  # type: ignore[misc]
                noisy_mean(frame, count, options.noise))
        pictures = {name: step([method(frame) for frame in dark]) for name, method in methods.items()}
        for name, restore in (("float32", float32), ("board", board)):
            pictures[f"{name}, best exposure"] = step([at_best_exposure(restore, *pair) for pair in zip(dark, truth)])
    qualities = {name: quality_of(group, truth) for name, group in pictures.items()}
    agreement = [psnr(*pair) for pair in zip(pictures["board"], pictures["float32"])]
    artifacts = {name: find_artifacts(methods[name], pictures[name], truth, cell) for name in ("float32", "board")}

    source = Path(options.data).resolve().name if options.data else "scikit-image"
    print(f"{len(dark)} frames of {source}, {CAMERA_SIZE[0]}x{CAMERA_SIZE[1]}, 8 bits, mean over the frames")
    for name, quality in qualities.items():
        print(f"  {name:24s} {quality.psnr:6.2f} dB   SSIM {quality.ssim:.3f}   with the brightness given "
              f"{quality.psnr_at_best_gain:6.2f} dB")
    print(f"board against float32: {mean_score(agreement):.1f} dB in the mean, {min(agreement):.1f} dB at least")
    for name, each in artifacts.items():
        print(f"{name}: grid {each.grid:.3f} (1: none), grey cast {each.cast:.1f} levels; normally lit pictures: "
              f"{each.lit_psnr:.1f} dB between input and output, brightness x {each.lit_gain:.2f}, {each.burnt:.1%} of "
              "the bright pixels burnt")
    of_nights = {f"{name}, {kind}": (judge_nights(methods[name], views), robustness(methods[name], views))
                 for kind, views in nights.items() for name in ("untouched", "float32", "board")}
    for name, (found, blended) in of_nights.items():
        print(f"{name}: {described(found)}; inputs blended with their truths "
              f"{' '.join(f'{each:.1f}' for each in blended)} dB")
    if out:
        content = {
            "model": tflite.name, "model_sha256": hashlib.sha256(tflite.read_bytes()).hexdigest(), "data": source,
            "frames": len(dark), "gamma": exponent,
            "quality": {name: dataclasses.asdict(each) for name, each in qualities.items()},
            "board_against_float_db": {"mean": mean_score(agreement), "least": min(agreement)},
            "artifacts": {name: dataclasses.asdict(each) for name, each in artifacts.items()},
            "nights": {name: _without_nan(dataclasses.asdict(found)) | {"blended_psnr": blended}
                       for name, (found, blended) in of_nights.items()}}
        with atomic_path(out / "judgement.json") as path:
            path.write_text(json.dumps(content, indent=1) + "\n")
        write_image(_sheet(frames, lambda i: (pictures["float32"][i], pictures["board"][i])), out / "contact_sheet.png")
        views = [(f"{night.name}, {kind}", night.dark, night.truth) for kind, each in nights.items() for night in each]
        if views:
            write_image(_sheet(views, lambda i: (float32(views[i][1]), board(views[i][1]))), out / "nights.png")
        print(f"written: judgement.json, contact_sheet.png{' and nights.png' if views else ''} in {out}")


def _sheet(frames: Sequence[tuple[str, Picture, Picture]],
           restored: Callable[[int], tuple[Picture, Picture]]) -> Image.Image:
    """Return a sheet of some of (name, dark, truth); `restored` gives what float32 and the board make of frame i."""
    rows = []
    for i in np.unique(np.linspace(0, len(frames) - 1, min(SHEET_ROWS, len(frames))).round().astype(int)):
        name, dark, truth = frames[i]
        ours, boards = restored(i)
        first, *scores = [f"{psnr(picture, truth):.2f} dB" for picture in (dark, ours, boards)]
        rows.append(([f"{name}: {first}", *scores, ""], [dark, ours, boards, truth]))
    return contact_sheet(rows, ["dark", "restored", "by the board", "original"])


def _nights(folder: Path) -> dict[str, list[Night]]:
    """Return the views of a folder's held-out panoramas, as they are and with lamps and signs added."""
    return {kind: night_frames(folder, CAMERA_SIZE, lamps=lamps)
            for kind, lamps in (("nights", False), ("nights with lamps", True))}


def _without_nan(figures: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def _levels(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 255:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of levels from 0 to 255, such as 4")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="judge", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", metavar="FILE", help="float32 weights (default: those of mcu that ship)")
    parser.add_argument("--model", type=Path, metavar="FILE",
                        help="the int8 .tflite made from them (default: the one that ships)")
    parser.add_argument("--data", type=folder_path, metavar="DIR", help=f"folder of pairs: {LAYOUTS}; the validation "
                        "pairs are judged, the gamma is chosen on the others (default: photographs inside "
                        "scikit-image, darkened)")
    parser.add_argument("--nights", type=folder_path, metavar="DIR",
                        help="panoramas of linear light (.hdr): views of those held out are judged too, with what must "
                             "not happen around lamps as numbers")
    parser.add_argument("--noise", type=_levels, metavar="LEVELS", help="also judge frames with Gaussian noise of so "
                        "many levels, single and as the mean of 4 and of 8, which the viewer's --still takes")
    parser.add_argument("--out", type=folder_path, metavar="DIR",
                        help="folder for judgement.json, contact_sheet.png and, with --nights, nights.png")
    parser.add_argument("--overwrite", action="store_true", help="replace files in --out that exist")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
