"""Methods without a network, which a network has to beat: one gamma, histogram equalisation, non-local means."""
from __future__ import annotations

from typing import Callable, Sequence

import numpy as np

from mirnet_torch.files.images import camera_size
from mirnet_torch.measures.metrics import mean_score, psnr
from mirnet_torch.scenes.camera import darken
from mirnet_torch.scenes.sources import TRAIN_PHOTOGRAPHS, photograph

Picture = np.ndarray  # uint8 (H, W, 3)
Method = Callable[[Picture], Picture]
GAMMAS = np.arange(0.1, 1.005, 0.01)
TUNING_SIZE = (160, 120)  # of the frames that the gamma is chosen on
METHODS = ("gamma", "equalise", "gamma+denoise")


def open_methods(exponent: float) -> dict[str, Method]:
    """Return `METHODS` by name; `exponent` is that of their gamma, see `best_gamma`."""
    return {"gamma": lambda dark: gamma(dark, exponent), "equalise": equalise_histogram,
            "gamma+denoise": lambda dark: denoise(gamma(dark, exponent))}


def best_gamma(frames: Sequence[tuple[Picture, Picture]]) -> float:
    """Return the exponent from `GAMMAS` with the highest mean PSNR over (dark, truth) frames."""
    def mean_psnr(exponent: float) -> float:
        return mean_score(psnr(gamma(dark, exponent), truth) for dark, truth in frames)
    return float(max(GAMMAS, key=mean_psnr))


def gamma(dark: Picture, exponent: float) -> Picture:
    """Raise every value, as a number from 0 to 1, to the exponent."""
    return np.rint(255 * (np.arange(256) / 255) ** exponent).astype(np.uint8)[dark]


def equalise_histogram(dark: Picture) -> Picture:
    """Equalise the histogram of the brightness (HSV's value), hue and saturation kept."""
    from skimage.color import hsv2rgb, rgb2hsv
    from skimage.exposure import equalize_hist
    hsv = rgb2hsv(dark)
    hsv[..., 2] = equalize_hist(hsv[..., 2])
    return np.rint(255 * hsv2rgb(hsv)).astype(np.uint8)


def denoise(picture: Picture) -> Picture:
    """Remove noise by non-local means (Buades et al., CVPR 2005), for the noise that is estimated from the picture."""
    from skimage.restoration import denoise_nl_means
    values = picture / np.float32(255)
    fine = values[1:, 1:] - values[1:, :-1] - values[:-1, 1:] + values[:-1, :-1]  # mostly noise
    sigma = float(np.median(np.abs(fine))) / (2 * 0.6745)  # of a normal distribution
    clean = denoise_nl_means(values, patch_size=5, patch_distance=6, h=0.8 * sigma, sigma=sigma, channel_axis=2)
    return np.rint(255 * clean.clip(0, 1)).astype(np.uint8)


def darkened() -> list[tuple[Picture, Picture]]:
    """Return (dark, truth) frames of the training photographs inside scikit-image."""
    bright = [camera_size(photograph(name), TUNING_SIZE) for name in TRAIN_PHOTOGRAPHS]
    return [(darken(picture, rng=np.random.default_rng((number, 1))), picture) for number, picture in enumerate(bright)]
