"""A low-light camera model: it turns a well exposed photograph into what a small camera records with too little light.

    dark = darken(photograph, rng=np.random.default_rng(0))

The steps are those of a raw pipeline, as in Brooks et al., "Unprocessing Images for Learned Raw Denoising" (CVPR
2019), without mosaic and colour matrix: undo the transfer curve, scale by exposure and white balance, add shot and
read noise in electrons, clip, apply the transfer curve, round to 8 bits, and to the format in which small cameras
send their frames: see `FORMATS`.

Departures from physics: the noise, clipping and tone curve of the photograph stay in; shot noise is normal instead of
Poisson, with the same variance, which differs only below about ten electrons and is ten times faster.
"""
from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Callable

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Camera:
    """Ranges of a camera and its light; every frame draws its own values from them.

    The defaults make dark frames. Exposures are those of the LOL data set: the light of its dark images, relative to
    that of their bright partners, has the percentiles 0.009 (5 %), 0.023 (50 %) and 0.13 (95 %). The darkest third is
    left out, since 8 bits keep too little of it.
    """

    exposure: tuple[float, float] = (0.02, 0.15)
    """Light reaching the sensor, relative to the photograph's; drawn uniformly in its logarithm."""
    white_balance: tuple[float, float] = (0.8, 1.25)
    """Gains of red and of blue relative to green, each drawn uniformly in the logarithm: the error of automatic white
    balance. Nine in ten LOL pairs lie between 0.6 and 1.4."""
    full_well: tuple[float, float] = (2000.0, 10000.0)
    """Electrons that make white; drawn uniformly in the logarithm. The signal-to-noise ratio of white is its root:
    33 to 40 dB, the class of VGA sensors with pixels of 2 to 4 micrometres."""
    read_noise: tuple[float, float] = (1.0, 5.0)
    """Standard deviation of the noise of reading one pixel, in electrons; drawn uniformly. Usual for CMOS sensors."""
    sensitivity: tuple[float, float] = (1.0, 1.0)
    """Electrons of red and of blue relative to those of green for white light, each drawn uniformly. The camera makes
    up for it, so these colours are noisier."""
    grain: tuple[float, float] = (0.0, 0.0)
    """Standard deviation in pixels of the Gaussian that blurs the noise, as demosaicking and denoising in a camera do;
    drawn uniformly."""


DARK = Camera()
# Noise of single pixels of larger cameras, for photographs at their own size. Of LOL's pairs at 600x400: green has a
# standard deviation of 1.2 levels at all levels from 6 to 50, red of 2.0, blue of 1.5; neighbours correlate by 0.04.
PIXELS = dict(full_well=(6000.0, 60000.0), read_noise=(1.0, 8.0), sensitivity=(0.25, 1.0), grain=(0.0, 0.8))
# Another frame of the same dark scene, made from a dark image: up to half a stop darker or brighter, with more noise.
RETAKE = Camera(exposure=(0.7, 1.4), white_balance=(0.9, 1.1), full_well=(4000.0, 40000.0), read_noise=(0.0, 3.0))
# The bright image itself, as a camera takes it.
FULL_LIGHT = Camera(exposure=(0.9, 1.0), white_balance=(0.97, 1.03))


@dataclass(frozen=True)
class Shot:
    """What a camera and its light drew for one frame."""

    exposure: float  # light reaching the sensor
    balance: np.ndarray  # gains of red, green and blue, float32 (3,)
    full_well: float  # electrons
    read_noise: float  # electrons
    sensitivity: np.ndarray = field(default_factory=lambda: np.ones(3, np.float32))  # of red, green and blue
    grain: float = 0.0  # pixels


def draw_shot(rng: np.random.Generator, camera: Camera = DARK) -> Shot:
    """Draw a frame's exposure, white balance and noise from a camera's ranges."""
    exposure = _log_uniform(rng, camera.exposure)
    red, blue = _log_uniform(rng, camera.white_balance), _log_uniform(rng, camera.white_balance)
    full_well, read_noise = _log_uniform(rng, camera.full_well), rng.uniform(*camera.read_noise)
    of_red, of_blue, grain = (low if low == high else rng.uniform(low, high)  # what cannot vary is not drawn
                              for low, high in (camera.sensitivity, camera.sensitivity, camera.grain))
    return Shot(exposure, np.array([red, 1, blue], np.float32), full_well, read_noise,
                np.array([of_red, 1, of_blue], np.float32), grain)


def darken(image: np.ndarray, *, rng: np.random.Generator, camera: Camera = DARK,
           frame_format: str | None = None) -> np.ndarray:
    """Return the frame that a camera records of a scene with less light.

    Args:
        image: the scene well exposed, uint8 (H, W, 3), sRGB.
        rng: where every random number comes from: equal generators give equal frames.
        camera: the ranges of exposure, white balance and noise.
        frame_format: in which the camera sends the frame, one of `FORMATS`; None: 8-bit RGB.

    Returns:
        uint8 (H, W, 3), sRGB, not brightened.
    """
    return record(to_linear(image), draw_shot(rng, camera), rng=rng, frame_format=frame_format)


def record(light: np.ndarray, shot: Shot, *, rng: np.random.Generator, frame_format: str | None = None) -> np.ndarray:
    """Return the frame that a camera records of linear light.

    Args:
        light: float32 (H, W, 3), RGB, from 0 up; with all of it reaching the sensor 1 is the least that makes white.
        shot: how the frame is taken.
        rng: of the noise.
        frame_format: as for `darken`.

    Returns:
        uint8 (H, W, 3), sRGB.
    """
    gains = shot.balance * shot.sensitivity * np.float32(shot.exposure * shot.full_well)
    electrons = light * gains
    noise = rng.standard_normal(light.shape, np.float32)
    if shot.grain:
        noise = _grainy(noise, shot.grain)
    electrons += noise * np.sqrt(electrons + np.float32(shot.read_noise ** 2))
    frame = to_srgb(electrons * (np.float32(1 / shot.full_well) / shot.sensitivity))
    return frame if frame_format is None else FORMATS[frame_format](frame)


def _grainy(noise: np.ndarray, grain: float) -> np.ndarray:
    """Blur noise (H, W, 3) of variance 1 by a Gaussian of `grain` pixels, and bring its variance back to 1."""
    steps = np.arange(-3, 4)
    kernel = np.exp(-0.5 * (steps / max(grain, 1e-3)) ** 2)
    kernel = (kernel / np.sqrt((kernel ** 2).sum())).astype(np.float32)
    for axis in (0, 1):
        padded = np.pad(noise, [(3, 3) if each == axis else (0, 0) for each in range(3)], mode="wrap")
        noise = sum(weight * np.roll(padded, -k, axis).take(range(noise.shape[axis]), axis)
                    for k, weight in enumerate(kernel))
    return noise


def to_linear(image: np.ndarray) -> np.ndarray:
    """Return the linear light of an 8-bit sRGB picture, float32, 0 to 1."""
    return _LINEAR[image]


def to_srgb(light: np.ndarray) -> np.ndarray:
    """Return uint8 sRGB of linear light, float32, clipped to 0 and 1."""
    return _SRGB[(light * np.float32(_CODES)).clip(0, _CODES).astype(np.uint16)]


def to_rgb565(image: np.ndarray) -> np.ndarray:
    """Return uint8 (..., 3) after rounding to 16-bit RGB565; the lost low bits are filled with the high bits."""
    lost = np.array([3, 2, 3], np.uint8)
    kept = image >> lost
    return (kept << lost) | (kept >> (np.array([5, 6, 5], np.uint8) - lost))


def to_yuv422(image: np.ndarray) -> np.ndarray:
    """Return uint8 (..., W, 3) after a trip through YUV 4:2:2: 8 bits of luminance for every pixel, and of blue and red
    chroma for two beside each other. BT.601 over the full range, in the integers of the sketch's frame_format.h."""
    width = image.shape[-2]
    if width % 2:  # the last pixel shares with nobody
        image = np.concatenate([image, image[..., -1:, :]], -2)
    red, green, blue = np.moveaxis(image.astype(np.int32), -1, 0)
    luminance = 77 * red + 150 * green + 29 * blue + 128 >> 8
    red, green, blue = (colour[..., ::2] + colour[..., 1::2] for colour in (red, green, blue))
    u = np.minimum(-43 * red - 85 * green + 128 * blue + 256 >> 9, 127)
    v = np.minimum(128 * red - 107 * green - 21 * blue + 256 >> 9, 127)
    added = np.stack([359 * v + 128 >> 8, -88 * u - 183 * v + 128 >> 8, 454 * u + 128 >> 8], -1)
    frame = luminance[..., None] + np.repeat(added, 2, -2)
    return frame[..., :width, :].clip(0, 255).astype(np.uint8)


def to_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Return uint8 (H, W, 3) after compression as JPEG with a quality from 1 to 100, as Pillow does it."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.array(Image.open(stream))


FORMATS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"yuv422": to_yuv422, "rgb565": to_rgb565}
"""What becomes of a picture in the formats of small cameras with two bytes for each pixel."""


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(np.log(bounds[0]), np.log(bounds[1]))))


def decode(value: np.ndarray) -> np.ndarray:
    """Return the linear light of sRGB values (IEC 61966-2-1), both in [0, 1]."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def encode(value: np.ndarray) -> np.ndarray:
    """Return the sRGB values of linear light, both in [0, 1]."""
    return np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1 / 2.4) - 0.055)


_CODES = 2 ** 15 - 1  # steps of linear light: a tenth of the smallest 8-bit step, so that tables replace powers
_LINEAR = decode(np.arange(256) / 255).astype(np.float32)
_SRGB = np.round(encode((np.arange(_CODES + 1) + 0.5) / (_CODES + 1)) * 255).astype(np.uint8)
