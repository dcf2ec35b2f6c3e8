"""PSNR, SSIM and the difference of colours against independent implementations of their papers."""
from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from scipy.signal import convolve2d
from skimage import data

from mirnet_torch.cli import UserError
from mirnet_torch.measures.metrics import delta_e, mean_score, psnr, psnr_at_best_gain, ssim

RANDOM = np.random.default_rng(0)


def wang_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM as Wang et al. 2004 write it, equations 13 to 16, window by window without padding."""
    x = np.arange(-5, 6)
    gauss = np.exp(-x ** 2 / (2 * 1.5 ** 2))
    window = np.outer(gauss, gauss) / gauss.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    channels = []
    for p, q in zip(np.moveaxis(a.astype(float), 2, 0), np.moveaxis(b.astype(float), 2, 0)):
        mean_p, mean_q, pp, qq, pq = (convolve2d(z, window, mode="valid") for z in (p, q, p * p, q * q, p * q))
        var_p, var_q, cov = pp - mean_p ** 2, qq - mean_q ** 2, pq - mean_p * mean_q
        index = (2 * mean_p * mean_q + c1) * (2 * cov + c2) / ((mean_p ** 2 + mean_q ** 2 + c1) * (var_p + var_q + c2))
        channels.append(index.mean())
    return float(np.mean(channels))


def pair(index: int) -> tuple[np.ndarray, np.ndarray]:
    """An image pair of odd size: pure noise, or a crop of a photograph and a noisy, darker version of it."""
    height, width = RANDOM.integers(11, 90, 2)
    if index < 3:
        return tuple(RANDOM.integers(0, 256, (2, height, width, 3)).astype(np.uint8))
    truth = data.astronaut()[100:100 + height, 150:150 + width]
    noisy = truth * RANDOM.uniform(0.1, 1) + RANDOM.normal(0, RANDOM.uniform(1, 30), truth.shape)
    return noisy.clip(0, 255).round().astype(np.uint8), truth


@pytest.mark.parametrize("index", range(10))
def test_equal_to_an_independent_implementation(index):
    output, truth = pair(index)
    error = output.astype(float) - truth
    assert psnr(output, truth) == pytest.approx(20 * math.log10(255) - 10 * math.log10((error ** 2).mean()), abs=1e-4)
    assert ssim(output, truth) == pytest.approx(wang_ssim(output, truth), abs=1e-4)


def test_psnr_at_best_gain_is_that_of_the_best_of_all_gains():
    output, truth = pair(5)
    tried = [psnr(np.rint(output * gain).clip(0, 255).astype(np.uint8), truth) for gain in np.geomspace(0.5, 20, 2000)]
    assert psnr_at_best_gain(output, truth) == pytest.approx(max(tried), abs=0.05)
    assert psnr_at_best_gain(truth // 2 * 2, truth) >= psnr(truth // 2 * 2, truth)
    assert psnr_at_best_gain(np.zeros_like(truth), truth) == psnr(np.zeros_like(truth), truth)


def test_extremes():
    black, white = np.zeros((11, 11, 3), np.uint8), np.full((11, 11, 3), 255, np.uint8)
    assert psnr(black, white) == 0.0
    assert psnr(white, white) == math.inf and ssim(white, white) == 1.0


def test_ssim_needs_room_for_its_window():
    image = RANDOM.integers(0, 256, (11, 40, 3)).astype(np.uint8)
    assert math.isfinite(ssim(image, 255 - image))
    assert math.isnan(ssim(image[:10], image[:10]))
    assert psnr(image[:1, :1], image[:1, :1]) == math.inf


@pytest.mark.parametrize("scores, mean", [
    ([20.0, 10.0], 15.0), ([20.0, math.inf], 20.0), ([math.inf], math.inf), ([0.5, math.nan], 0.5)])
def test_mean_is_over_the_finite_scores(scores, mean):
    assert mean_score(scores) == mean


def test_mean_of_nothing_is_nan():
    assert math.isnan(mean_score([])) and math.isnan(mean_score([math.nan]))


@pytest.mark.parametrize("metric", [psnr, ssim, delta_e])
@pytest.mark.parametrize("output, truth", [
    (np.zeros((12, 12, 3)), np.zeros((12, 12, 3))),
    (np.zeros((12, 12, 3), np.uint8), np.zeros((12, 13, 3), np.uint8)),
    (np.zeros((3, 12, 12), np.uint8), np.zeros((3, 12, 12), np.uint8)),
    (np.zeros((0, 12, 3), np.uint8), np.zeros((0, 12, 3), np.uint8)),
], ids=["float", "sizes differ", "channels first", "empty"])
def test_other_images_are_refused(metric, output, truth):
    with pytest.raises(ValueError, match="metrics take"):
        metric(output, truth)


def test_missing_scikit_image_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    with pytest.raises(UserError, match="pip install"):
        psnr(np.zeros((12, 12, 3), np.uint8), np.zeros((12, 12, 3), np.uint8))


def test_delta_e_of_greys_is_that_of_their_lightness():
    """Without chroma CIEDE2000 is dL / S_L, S_L = 1 + 0.015 (L - 50)^2 / sqrt(20 + (L - 50)^2) at the mean L."""
    def lightness(level: int) -> float:
        value = ((level / 255 + 0.055) / 1.055) ** 2.4
        return 116 * value ** (1 / 3) - 16
    for dark, bright in ((60, 90), (120, 250), (200, 203)):
        ours = delta_e(*(np.full((3, 4, 3), level, np.uint8) for level in (dark, bright)))
        middle = ((lightness(dark) + lightness(bright)) / 2 - 50) ** 2
        scale = 1 + 0.015 * middle / math.sqrt(20 + middle)
        assert ours == pytest.approx((lightness(bright) - lightness(dark)) / scale, rel=1e-3)


def test_delta_e_is_the_mean_over_the_pixels_in_strips(monkeypatch):
    output, truth = pair(4)
    whole = delta_e(output, truth)
    monkeypatch.setattr("mirnet_torch.measures.metrics.STRIP", 2 * output.shape[1])
    assert delta_e(output, truth) == pytest.approx(whole, rel=1e-12) and delta_e(truth, truth) == 0
    colours = [np.full((2, 2, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 255, 0))]
    assert delta_e(*colours) == pytest.approx(86.61, abs=0.01)  # of the primaries, as other programs print it
