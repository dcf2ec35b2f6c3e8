"""The low-light camera model against the physics that it claims."""
from __future__ import annotations

import numpy as np
import pytest
from skimage import data

from mirnet_torch.scenes.camera import DARK, PIXELS, RETAKE, Camera, darken, to_jpeg, to_rgb565, to_yuv422

NOISELESS = Camera(exposure=(0.1, 0.1), white_balance=(1, 1), full_well=(1e12, 1e12), read_noise=(0, 0))


def linear(srgb):
    """IEC 61966-2-1, written from the standard."""
    value = np.asarray(srgb, np.float64) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def test_equal_generators_give_equal_frames():
    frames = [darken(data.astronaut(), rng=np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(frames[0], frames[1]) and not np.array_equal(frames[0], frames[2])
    assert frames[0].dtype == np.uint8 and frames[0].shape == data.astronaut().shape


def test_without_noise_only_the_light_changes():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, 2)
    frame = darken(ramp, rng=np.random.default_rng(0), camera=NOISELESS)
    light = 0.1 * linear(ramp)
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    assert np.abs(frame - expected).max() <= 0.55  # rounding to 8 bits, and the table's step of a tenth


def test_full_light_without_noise_changes_nothing():
    camera = Camera(exposure=(1, 1), white_balance=(1, 1), full_well=(1e12, 1e12), read_noise=(0, 0))
    image = data.coffee()
    assert np.array_equal(darken(image, rng=np.random.default_rng(0), camera=camera), image)


@pytest.mark.parametrize("full_well, read_noise", [(2000.0, 0.0), (500.0, 12.0)])
def test_noise_has_the_variance_of_shot_and_read_noise(full_well, read_noise):
    camera = Camera((0.5, 0.5), (1, 1), (full_well, full_well), (read_noise, read_noise))
    grey = np.full((300, 300, 3), 180, np.uint8)
    electrons = linear(darken(grey, rng=np.random.default_rng(0), camera=camera)) * full_well
    expected = linear(180) * 0.5 * full_well
    assert electrons.mean() == pytest.approx(expected, rel=0.01)
    assert electrons.var() == pytest.approx(expected + read_noise ** 2, rel=0.03)


@pytest.mark.parametrize("camera", [DARK, RETAKE])
def test_frames_stay_in_the_camera_s_ranges(camera):
    grey = np.full((64, 64, 3), 120, np.uint8)
    means = np.array([linear(darken(grey, rng=np.random.default_rng(seed), camera=camera)).mean((0, 1))
                      for seed in range(100)]) / linear(120)
    green, balance = means[:, 1], means[:, [0, 2]] / means[:, 1:2]
    assert camera.exposure[0] * 0.8 < green.min() < green.max() < camera.exposure[1] * 1.2
    assert green.max() / green.min() > 0.8 * camera.exposure[1] / camera.exposure[0]  # and fill them
    assert camera.white_balance[0] * 0.8 < balance.min() < balance.max() < camera.white_balance[1] * 1.25


def test_rgb565_is_a_trip_through_16_bits():
    image = data.chelsea()
    red, green, blue = (image[..., channel].astype(int) for channel in range(3))
    word = red // 8 << 11 | green // 4 << 5 | blue // 8
    expected = np.stack([np.round((word >> 11) * 255 / 31), np.round((word >> 5 & 63) * 255 / 63),
                         np.round((word & 31) * 255 / 31)], -1)
    assert np.abs(to_rgb565(image) - expected).max() <= 1  # repeated bits are at most one level from the quotient
    ends = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    assert np.array_equal(to_rgb565(ends), ends)
    frame = darken(image, rng=np.random.default_rng(0), frame_format="rgb565")
    assert np.array_equal(frame, to_rgb565(darken(image, rng=np.random.default_rng(0))))


def test_yuv422_keeps_luminance_and_shares_chroma():
    image = data.chelsea()[:, :401]
    frame = to_yuv422(image)
    assert frame.shape == image.shape
    luma = np.array([0.299, 0.587, 0.114])
    inside = ((frame > 0) & (frame < 255)).all(-1)  # a clipped colour changes its luminance
    assert np.abs((frame @ luma - image @ luma)[inside]).max() <= 1.5
    assert np.array_equal(to_yuv422(image[:, 400:]), frame[:, 400:])  # the last pixel has chroma of its own
    differences = (frame - frame[..., 1:2].astype(int))[:, :400].reshape(-1, 2, 3)
    assert np.array_equal(differences[:, 0][inside[:, :400].reshape(-1, 2).all(1)],
                          differences[:, 1][inside[:, :400].reshape(-1, 2).all(1)])
    ends = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    assert np.array_equal(to_yuv422(ends), ends)
    dark = darken(image, rng=np.random.default_rng(0), frame_format="yuv422")
    assert np.array_equal(dark, to_yuv422(darken(image, rng=np.random.default_rng(0))))


def test_colours_of_low_sensitivity_are_noisier():
    camera = Camera((0.5, 0.5), (1, 1), (1000.0, 1000.0), (0.0, 0.0), sensitivity=(0.25, 0.25))
    light = linear(darken(np.full((300, 300, 3), 180, np.uint8), rng=np.random.default_rng(0), camera=camera))
    assert light.mean((0, 1)) == pytest.approx(linear(180) * 0.5, rel=0.01)
    assert light.var((0, 1)) / light[..., 1].var() == pytest.approx([4, 1, 4], rel=0.05)


def test_grain_blurs_the_noise_and_keeps_its_variance():
    grey = np.full((300, 300, 3), 180, np.uint8)
    fine, grainy = (linear(darken(grey, rng=np.random.default_rng(0), camera=Camera(
        (0.5, 0.5), (1, 1), (2000.0, 2000.0), (0.0, 0.0), grain=(grain, grain))))[..., 1] for grain in (0.0, 0.8))
    assert grainy.var() == pytest.approx(fine.var(), rel=0.05)
    neighbours = [np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1] for noise in (fine, grainy)]
    # A Gaussian of s pixels correlates neighbours by exp(-1 / (4 s^2)).
    assert neighbours == pytest.approx([0, np.exp(-1 / (4 * 0.64))], abs=0.03)


def test_pixels_of_a_photograph_are_as_noisy_as_those_of_lol():
    """See `PIXELS`: standard deviations of red, green and blue in LOL's dark frames are 2.0, 1.2 and 1.5 levels."""
    rng = np.random.default_rng(0)
    camera = Camera(**PIXELS)
    deviations = [darken(np.full((32, 32, 3), 160, np.uint8), rng=rng, camera=camera).std((0, 1)) for _ in range(200)]
    assert np.median(deviations, 0) == pytest.approx([1.8, 1.3, 1.8], abs=0.4)


def test_jpeg_is_that_of_pillow_and_costs_little_at_high_quality():
    image = data.chelsea()
    high, low = (np.abs(to_jpeg(image, quality) - image.astype(int)).mean() for quality in (98, 20))
    assert 0 < high < 2 < low < 10
