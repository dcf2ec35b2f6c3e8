"""Panoramas of true linear light: views cut from them, and each exposed twice, as a good photograph and in the dark.

    light = cut_view(read_panorama("lobby.hdr"), (160, 120), yaw=40, pitch=-5, across=75)
    dark, truth = expose_twice(light, rng=np.random.default_rng(0))

Lamps, suns and windows are many stops brighter than their rooms. A photograph darkened afterwards has lost that, since
it was clipped once; a network that never saw it turns lit signs blue and lit walls green.

The truth is one exposure of the same light, metered as a camera does it; its curve is one for the whole picture, so
nothing is tone-mapped by place. Two things about highlights are not as in a simple camera:

* They keep their hue: a colour too bright is scaled as a whole until its largest channel fits. Clipped channel by
  channel red lamps turn yellow or pink, and a network learns to do so to every red that is lit.
* They are rolled off up to what the dark frame clips: a wall that the dark frame shows well lit stays a wall, and what
  burnt out there is white here too, since no network can know better.
"""
from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from mirnet_torch.cli import UserError
from mirnet_torch.scenes.camera import Camera, decode, draw_shot, encode, record, to_srgb
from mirnet_torch.scenes.radiance import read_radiance

SUFFIX = ".hdr"
HELD_OUT = ("dikhololo_night_1k", "hall", "lobby", "venice_sunset_1k")  # panoramas of Poly Haven to validate with
HOLD_OUT = 4  # without any of these every fourth by name
LARGEST_WIDTH = 1024  # panoramas are kept at most this wide: 2.8 pixels per degree
# Metering: the mean of the logarithm of brightness becomes the grey of bright LOL images; all but a share of the view
# keeps below a light.
KEY, WHITE_SHARE, WHITEST = 0.17, 0.03, 3.0
SHOULDER = 0.6  # of linear light: the truth's curve is that of sRGB up to here
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # ITU-R BT.709, of linear light
# Darker than `camera.DARK` at its darkest, with less noise: a pixel of a small frame gathers several of the sensor's.
NIGHT = Camera(exposure=(0.012, 0.2), white_balance=(0.85, 1.18), full_well=(4000.0, 25000.0))


def find_panoramas(folder: str | os.PathLike[str]) -> tuple[list[Path], list[Path]]:
    """Return a folder's panoramas (.hdr) to train on and those to validate with: `HELD_OUT`, else every fourth.

    Raises:
        UserError: the folder is missing, or has fewer than two panoramas.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give one with panoramas ({SUFFIX})")
    paths = sorted(path for path in folder.iterdir()
                   if path.suffix.lower() == SUFFIX and not path.name.startswith("."))
    if len(paths) < 2:
        raise UserError(f"{folder} has {len(paths)} panoramas ({SUFFIX}): give at least two, one is held out")
    held_out = [path for path in paths if path.stem in HELD_OUT] or paths[HOLD_OUT - 1::HOLD_OUT] or paths[-1:]
    return [path for path in paths if path not in held_out], held_out


def read_panorama(path: str | os.PathLike[str]) -> torch.Tensor:
    """Return an equirectangular panorama as `cut_view` takes it, linear, shrunk to `LARGEST_WIDTH` if it is wider.

    Raises:
        UserError: as `radiance.read_radiance`, or the picture is not twice as wide as it is high.
    """
    light = torch.from_numpy(read_radiance(path)).permute(2, 0, 1)
    height, width = light.shape[1:]
    if width != 2 * height:
        raise UserError(f"{path} is {width}x{height}: a panorama all around is twice as wide as it is high")
    if width > LARGEST_WIDTH:
        light = F.interpolate(light[None], (LARGEST_WIDTH // 2, LARGEST_WIDTH), mode="area")[0]
    return wrap(light)


def wrap(panorama: torch.Tensor) -> torch.Tensor:
    """Return a panorama (3, H, W) with a column of the other end at either end, so that the seam is smooth."""
    return torch.cat([panorama[..., -1:], panorama, panorama[..., :1]], -1)


def cut_view(panorama: torch.Tensor, size: tuple[int, int], *, yaw: float, pitch: float, across: float,
             roll: float = 0.0) -> np.ndarray:
    """Return what a camera without distortion sees: linear light, float32 (H, W, 3), in the panorama's unit.

    Every pixel is the mean of four samples, so that nothing aliases at the panoramas' 2.8 pixels per degree.

    Args:
        panorama: float32 (3, H, W + 2), see `wrap`.
        size: (width, height) of the view.
        yaw, pitch, roll: where the camera looks, in degrees: to the right, upwards, turned about its axis.
        across: its horizontal angle of view in degrees, below 180.
    """
    width, height = size
    half = np.tan(np.radians(across) / 2)
    x, y = (torch.arange(1 - 2 * side, 2 * side, 2) * (half / (2 * width)) for side in size)  # centres of half pixels
    up, right = torch.meshgrid(-y, x, indexing="ij")
    sine, cosine = np.sin(np.radians(roll)), np.cos(np.radians(roll))
    right, up = cosine * right - sine * up, sine * right + cosine * up
    sine, cosine = np.sin(np.radians(pitch)), np.cos(np.radians(pitch))
    forward, up = cosine - sine * up, sine + cosine * up
    longitude = torch.atan2(right, forward) + float(np.radians(yaw))
    latitude = torch.atan2(up, torch.hypot(right, forward))
    turns = torch.remainder(longitude / (2 * torch.pi) + 0.5, 1.0)
    columns = panorama.shape[-1]
    grid = torch.stack([(2 * turns - 1) * (1 - 2 / columns), -2 * latitude / torch.pi], -1)[None]
    seen = F.grid_sample(panorama[None], grid, padding_mode="border", align_corners=False)
    return F.avg_pool2d(seen, 2)[0].permute(1, 2, 0).numpy()


def random_view(panorama: torch.Tensor, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return a view in a random direction, as people hold cameras: about level, angles of view of 45 to 90 degrees."""
    return cut_view(panorama, size, yaw=rng.uniform(0, 360), pitch=rng.normal(0, 15), across=rng.uniform(45, 90),
                    roll=rng.normal(0, 4))


def expose_twice(light: np.ndarray, *, rng: np.random.Generator, camera: Camera = NIGHT, lamps: bool = False,
                 frame_format: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return a dark frame of a scene and the photograph that it should have been, both uint8 (H, W, 3), sRGB.

    Args:
        light: linear light, float32 (H, W, 3), in any unit.
        rng: of exposure, white balance and noise of the dark frame, and of lamps.
        camera: the ranges of these; exposure is relative to the photograph's.
        lamps: add some, see `add_lamps`.
        frame_format: of the dark frame, as for `camera.darken`.
    """
    shot = draw_shot(rng, camera)
    metered = light * meter(light)
    if lamps:
        metered = add_lamps(metered, white=1 / shot.exposure, rng=rng)
        metered *= meter(metered)
    dark = record(metered, shot, rng=rng, frame_format=frame_format)
    burnt = 1 / (shot.exposure * shot.balance.max())  # as much light of each colour is white in the dark frame
    return dark, develop(np.minimum(metered, burnt), ceiling=burnt)


def add_lamps(light: np.ndarray, *, white: float, rng: np.random.Generator) -> np.ndarray:
    """Return linear light, float32 (H, W, 3), with one to four lamps, signs or floodlit places more.

    Half of them are coloured, the others neutral or warm. Their light is added to the scene's, so that dark frame and
    truth see the same.

    Args:
        white: the light that the dark frame shows as white; lamps are a twentieth to three times as bright.
    """
    height, width, _ = light.shape
    rows, columns = np.ogrid[:height, :width]
    for _ in range(rng.integers(1, 5)):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        across, down = width * np.exp(rng.uniform(np.log(0.006), np.log(0.12), 2))  # half its sides
        peak = white * np.exp(rng.uniform(np.log(0.05), np.log(3.0)))
        colour = rng.permutation([1.0, rng.random(), 0.0]) if rng.random() < 0.5 else [1.0, 0.8, 0.6]
        colour = 1 + rng.random() * (np.asarray(colour, np.float32) - 1)  # from white to the full colour
        far_x, far_y = np.abs(columns - x) - across, np.abs(rows - y) - down
        if (kind := rng.random()) < 0.5:  # a sign or a window
            distance = np.maximum(far_x, far_y)
        else:  # a lamp, or a place in its beam
            distance = np.hypot(columns - x, rows - y) - across
        if kind < 0.75:
            shape = 1 / (1 + np.exp(np.minimum(2 * distance, 50)))
            shape = shape + 0.02 / (1 + (np.maximum(distance, 0) / across) ** 2)  # its glow
            light = light + (peak * shape)[..., None].astype(np.float32) * colour
        else:
            beam = np.exp(-(np.maximum(distance, 0) / (3 * across)) ** 2)
            light = light * (1 + (peak * beam)[..., None].astype(np.float32) * colour)
    return light.astype(np.float32)


def meter(light: np.ndarray) -> np.float32:
    """Return the factor that exposes linear light (H, W, 3) as a camera's automatic would: see `KEY`, `WHITE_SHARE`."""
    luma = light @ LUMA
    floor = max(float(luma.mean()) * 1e-4, 1e-30)
    grey = KEY / np.exp(np.log(np.maximum(luma, floor)).mean())
    highlights = max(float(np.quantile(light.max(2), 1 - WHITE_SHARE)), 1e-30)
    return np.float32(min(grey, WHITEST / highlights))


def develop(light: np.ndarray, *, ceiling: float) -> np.ndarray:
    """Return uint8 sRGB (H, W, 3) of metered light: highlights are rolled off and keep their hue.

    Above `SHOULDER` levels rise with the logarithm of light, slower and slower, up to white at the ceiling.
    """
    peak = light.max(2, keepdims=True)
    start, ceiling = encode(np.asarray(SHOULDER, np.float32)), max(ceiling, 1.0)
    left = 1 - np.log(np.maximum(peak, SHOULDER) / SHOULDER) / np.log(ceiling / SHOULDER)
    shown = decode(1 - (1 - start) * np.maximum(left, 0) ** 2)
    return to_srgb(light * np.where(peak > SHOULDER, shown / np.maximum(peak, np.float32(1e-12)), np.float32(1)))
