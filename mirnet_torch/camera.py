"""A low-light camera model: it turns a well exposed photograph into what a small camera records with too little light.

    dark = darken(photograph, rng=np.random.default_rng(0))

The steps are those of a raw pipeline, as in Brooks et al., "Unprocessing Images for Learned Raw Denoising" (CVPR
2019), without mosaic and colour matrix: undo the transfer curve, scale by exposure and white balance, add shot and
read noise in electrons, clip, apply the transfer curve, round to 8 bits (or to RGB565, as the OV7675 camera sends).

Departures from physics: the noise, clipping and tone curve of the photograph stay in; shot noise is normal instead of
Poisson, with the same variance, which differs only below about ten electrons and is ten times faster.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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


DARK = Camera()
# Another frame of the same dark scene, made from a dark image: up to half a stop darker or brighter, with more noise.
RETAKE = Camera(exposure=(0.7, 1.4), white_balance=(0.9, 1.1), full_well=(4000.0, 40000.0), read_noise=(0.0, 3.0))
# The bright image itself, as a camera takes it.
FULL_LIGHT = Camera(exposure=(0.9, 1.0), white_balance=(0.97, 1.03))


def darken(image: np.ndarray, *, rng: np.random.Generator, camera: Camera = DARK, rgb565: bool = False) -> np.ndarray:
    """Return the frame that a camera records of a scene with less light.

    Args:
        image: the scene well exposed, uint8 (H, W, 3), sRGB.
        rng: where every random number comes from: equal generators give equal frames.
        camera: the ranges of exposure, white balance and noise.
        rgb565: keep 5, 6 and 5 bits of red, green and blue, expanded to 8 by repeating the high bits.

    Returns:
        uint8 (H, W, 3), sRGB, not brightened.
    """
    exposure = _log_uniform(rng, camera.exposure)
    red, blue = _log_uniform(rng, camera.white_balance), _log_uniform(rng, camera.white_balance)
    full_well, read_noise = _log_uniform(rng, camera.full_well), rng.uniform(*camera.read_noise)
    gains = np.array([red, 1, blue], np.float32) * np.float32(exposure * full_well)
    electrons = _LINEAR[image] * gains
    noise = rng.standard_normal(image.shape, np.float32)
    electrons += noise * np.sqrt(electrons + np.float32(read_noise ** 2))
    codes = (electrons * np.float32(_CODES / full_well)).clip(0, _CODES).astype(np.uint16)
    frame = _SRGB[codes]
    return to_rgb565(frame) if rgb565 else frame


def to_rgb565(image: np.ndarray) -> np.ndarray:
    """Return uint8 (..., 3) after rounding to 16-bit RGB565; the lost low bits are filled with the high bits."""
    lost = np.array([3, 2, 3], np.uint8)
    kept = image >> lost
    return (kept << lost) | (kept >> (np.array([5, 6, 5], np.uint8) - lost))


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(np.log(bounds[0]), np.log(bounds[1]))))


def _srgb_to_linear(value: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, values in [0, 1]."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _linear_to_srgb(value: np.ndarray) -> np.ndarray:
    return np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1 / 2.4) - 0.055)


_CODES = 2 ** 15 - 1  # steps of linear light: a tenth of the smallest 8-bit step, so that tables replace powers
_LINEAR = _srgb_to_linear(np.arange(256) / 255).astype(np.float32)
_SRGB = np.round(_linear_to_srgb((np.arange(_CODES + 1) + 0.5) / (_CODES + 1)) * 255).astype(np.uint8)
