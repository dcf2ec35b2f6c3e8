"""How steady in time a network's videos are: `measure_flicker`, `measure_lag` and the command

    python -m mirnet_torch.flicker [--checkpoint C] [--frames N]

The videos are photographs inside scikit-image, which the camera model records anew for every frame, with fresh noise.
All figures are in levels, of 255. Every frame is restored in three ways: with its maps "alone", with "steady" ones
(`SteadyMaps`), and with the maps "held": those of the same scene without noise.

A still scene shows flicker: the standard deviation over time of the mean brightness, and of the brightness around each
pixel. The second is not 0 with the maps held: it is what the mean over 15x15 pixels leaves of the frames' own noise.

A changing scene shows what steadiness costs: how far a pixel is, in the mean, from what it is with the maps held.
"""
from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from mirnet_torch.checkpoint import load_model
from mirnet_torch.cli import Parser, UserError, progress, require_extra, run_command
from mirnet_torch.compact import CompactMIRNet
from mirnet_torch.restoration.full_size import apply_maps, maps_of_copy
from mirnet_torch.restoration.steady import SteadyMaps
from mirnet_torch.scenes.camera import Shot, record, to_linear
from mirnet_torch.scenes.sources import VAL_PHOTOGRAPHS, photograph

SETTLING = 10  # frames at the start of a still scene that do not count
LOCAL = 15  # pixels
SIZE = (160, 120)  # a frame that the network sees whole, so with all its noise
EXPOSURES = (0.02, 0.05, 0.15)  # from the darkest to the brightest of the camera model
FULL_WELL, READ_NOISE = 4000.0, 3.0  # electrons; within the ranges of the camera model
NO_NOISE = (1e9, 0.0)
Video = list[tuple[np.ndarray, float]]  # of every frame the light, float32 (H, W, 3), and the share that is recorded


@dataclass(frozen=True)
class Flicker:
    """Standard deviations over time, in levels."""

    mean: float  # of the mean brightness
    local: float  # of the brightness around a pixel; mean over the pixels


def measure_flicker(model: CompactMIRNet, video: Video, *, seed: int = 0) -> dict[str, Flicker]:
    """Measure the video of a still scene with more than `SETTLING` frames, restored "alone", "steady" and "held"."""
    return {name: _flicker(frames[SETTLING:]) for name, frames in _restore(model, video, seed).items()}


def measure_lag(model: CompactMIRNet, video: Video, *, seed: int = 0) -> dict[str, float]:
    """Return how far frames restored "alone" and "steady" are from those with the maps held, in levels."""
    restored = _restore(model, video, seed)
    return {name: float((restored[name] - restored["held"]).abs().mean()) for name in ("alone", "steady")}


def still(light: np.ndarray, exposure: float, frames: int) -> Video:
    """Return a scene in which nothing changes."""
    return [(_view(light, 0), exposure)] * frames


def changing(light: np.ndarray, exposure: float, frames: int) -> dict[str, Video]:
    """Return scenes that change: the camera pans, the light grows, a lamp moves, the film is cut."""
    half = frames // 2

    def with_lamp(frame: int) -> np.ndarray:
        view = _view(light, 0).copy()
        view[40:60, 4 * frame:4 * frame + 20] = 1 / exposure
        return view

    return {**{f"pan of {speed} pixels a frame": [(_view(light, speed * frame), exposure) for frame in range(frames)]
               for speed in (1, 4, 16)},
            "light that doubles": [(_view(light, 0), exposure * 2 ** (frame / frames)) for frame in range(frames)],
            "lamp that moves": [(with_lamp(frame), exposure) for frame in range(frames)],
            "cut": [(_view(light, 0 if frame < half else SIZE[0]), exposure) for frame in range(frames)]}


def _view(light: np.ndarray, left: int) -> np.ndarray:
    """Cut a frame from light that goes on to the right as in a mirror."""
    width, height = SIZE
    columns = np.arange(left, left + width) % (2 * light.shape[1])
    return light[:height, np.minimum(columns, 2 * light.shape[1] - 1 - columns)]


def _restore(model: CompactMIRNet, video: Video, seed: int) -> dict[str, torch.Tensor]:
    """Return a video restored in the three ways, each (frames, 3, H, W)."""
    rng, steady = np.random.default_rng(seed), SteadyMaps()
    results: dict[str, list[torch.Tensor]] = {"alone": [], "steady": [], "held": []}
    for light, exposure in video:
        frame, clean = (
            torch.from_numpy(record(light, Shot(exposure, np.ones(3, np.float32), *noise), rng=rng)).permute(2, 0, 1)
            for noise in ((FULL_WELL, READ_NOISE), NO_NOISE))
        maps, held = maps_of_copy(model, frame[None]), maps_of_copy(model, clean[None])
        for name, chosen in (("alone", maps), ("steady", steady.next(maps)), ("held", held)):
            results[name].append(apply_maps(model, frame[None], chosen))
    return {name: torch.cat(frames).float() for name, frames in results.items()}


def _flicker(frames: torch.Tensor) -> Flicker:
    brightness = frames.mean(1, keepdim=True)
    return Flicker(float(brightness.mean((1, 2, 3)).std()), float(F.avg_pool2d(brightness, LOCAL, 5).std(0).mean()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        UserError: the checkpoint cannot be used, or the extra `[train]` is not installed.
    """
    parser = Parser(prog="python -m mirnet_torch.flicker", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="mcu", help="weights of a compact network (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=40, metavar="N", help="of every video (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.frames < SETTLING + 2:
        parser.error(f"argument --frames: must be {SETTLING + 2} or more, not {options.frames}")
    require_extra("train", "measuring flicker")
    model = load_model(options.checkpoint)
    if not isinstance(model, CompactMIRNet):
        raise UserError(f"{options.checkpoint} holds the published network, whose frames cannot be kept steady: give "
                        "a compact one")
    scenes = [(name, exposure) for name in VAL_PHOTOGRAPHS for exposure in EXPOSURES]
    print(f"{SIZE[0]}x{SIZE[1]}, {options.frames} frames, levels: every frame alone -> steady (maps held)")
    for name, exposure in progress(scenes, desc="flicker", unit="scene"):
        light = to_linear(photograph(name))
        found = measure_flicker(model, still(light, exposure, options.frames))
        alone, steady, held = (found[way] for way in ("alone", "steady", "held"))
        print(f"{name}, {exposure:.0%} of the light")
        print(f"  still: mean brightness {alone.mean:.2f} -> {steady.mean:.2f} ({held.mean:.2f}), around a pixel "
              f"{alone.local:.2f} -> {steady.local:.2f} ({held.local:.2f})")
        for change, video in changing(light, exposure, options.frames).items():
            lag = measure_lag(model, video)
            print(f"  {change}: off by {lag['alone']:.2f} -> {lag['steady']:.2f}")


if __name__ == "__main__":
    sys.exit(run_command(main))
