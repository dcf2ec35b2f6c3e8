"""PSNR, SSIM and the difference of colours in one protocol: on 8-bit RGB, per image, no ground-truth-mean correction.

PSNR is computed per image and then averaged, not computed from a pooled error; SSIM is that of Wang et al., "Image
Quality Assessment: From Error Visibility to Structural Similarity", IEEE TIP 2004: Gaussian window of 11 pixels,
sigma 1.5; the difference of colours is CIEDE2000, Sharma et al., "The CIEDE2000 Color-Difference Formula", Color
Research and Application 2005. All are scikit-image's, which comes with the extra `[train]`.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Callable, Iterable

import numpy as np

from mirnet_torch.cli import UserError, install_command

SSIM_WINDOW = 11
STRIP = 2 ** 18  # pixels whose colours are compared at once, to keep memory low
PROTOCOL = (
    "8-bit RGB, no ground-truth-mean correction. PSNR: per image over all pixels and channels, then the mean over the "
    "images; identical images have infinite PSNR and are left out of that mean. SSIM: Wang et al. 2004, Gaussian "
    "window 11x11, sigma 1.5, data range 255, population covariance, mean over the channels; images with a side under "
    "11 pixels have none and are left out of its mean. Delta E: CIEDE2000 of sRGB under D65, mean over the pixels.")


@dataclass(frozen=True)
class Metric:
    """A metric as the commands compute and print it."""

    name: str
    measure: Callable[[np.ndarray, np.ndarray], float]  # (output, truth), uint8 (H, W, 3)
    label: str
    digits: int = 4
    lower_is_better: bool = False


def psnr(output: np.ndarray, truth: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of two uint8 (H, W, 3) images in dB; infinity if they are equal.

    Raises:
        ValueError: they are not two uint8 images of one shape.
        UserError: scikit-image is not installed.
    """
    _check(output, truth)
    with np.errstate(divide="ignore"):
        return float(_scikit_image_metrics().peak_signal_noise_ratio(truth, output, data_range=255))


def psnr_at_best_gain(output: np.ndarray, truth: np.ndarray) -> float:
    """Return the PSNR of an output after it is multiplied by the factor that minimises the error.

    The factor comes from the truth, so this does not rank methods: it shows how much of the error is brightness alone.
    Arguments and errors are those of `psnr`.
    """
    _check(output, truth)
    made, wanted = output.astype(np.float64), truth.astype(np.float64)
    gain = (made * wanted).sum() / max((made * made).sum(), 1)
    return psnr(np.rint(gain * made).clip(0, 255).astype(np.uint8), truth)


def ssim(output: np.ndarray, truth: np.ndarray) -> float:
    """Return the structural similarity of two uint8 (H, W, 3) images, at most 1; NaN if a side is under 11 pixels.

    Raises:
        ValueError: they are not two uint8 images of one shape.
        UserError: scikit-image is not installed.
    """
    _check(output, truth)
    if min(output.shape[:2]) < SSIM_WINDOW:
        return math.nan
    return float(_scikit_image_metrics().structural_similarity(
        truth, output, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2))


def delta_e(output: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean CIEDE2000 over the pixels of two uint8 (H, W, 3) sRGB images, from 0 up; about 1 is just seen.

    Raises:
        ValueError: they are not two uint8 images of one shape.
        UserError: scikit-image is not installed.
    """
    _check(output, truth)
    _scikit_image_metrics()
    from skimage.color import deltaE_ciede2000, rgb2lab
    rows = max(1, STRIP // output.shape[1])
    parts = [deltaE_ciede2000(*(rgb2lab(image[top:top + rows]) for image in (truth, output))).sum(dtype=np.float64)
             for top in range(0, len(output), rows)]
    return math.fsum(parts) / (output.shape[0] * output.shape[1])


def mean_score(scores: Iterable[float]) -> float:
    """Return the mean of the finite scores; if there are none, infinity if one is infinite, else NaN."""
    values = list(scores)
    finite = [value for value in values if math.isfinite(value)]
    if finite:
        return math.fsum(finite) / len(finite)
    return math.inf if math.inf in values else math.nan


def _check(output: np.ndarray, truth: np.ndarray) -> None:
    for image in (output, truth):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ValueError(f"metrics take uint8 images (H, W, 3), not {image.dtype} {image.shape}")
    if output.shape != truth.shape:
        raise ValueError(f"metrics take two images of one shape, not {output.shape} and {truth.shape}")


def _scikit_image_metrics() -> ModuleType:
    try:
        import skimage.metrics
    except ImportError:
        raise UserError(f"measuring needs scikit-image: {install_command('train')}") from None
    return skimage.metrics


METRICS = (Metric("psnr", psnr, "PSNR, dB", 2), Metric("ssim", ssim, "SSIM"),
           Metric("delta_e", delta_e, "dE2000", 2, lower_is_better=True))
