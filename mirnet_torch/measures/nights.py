"""What PSNR hides in pictures of the night: lights that change their colour, burn, or leave a halo.

    nights = night_frames("hdri")                        views of held-out panoramas, exposed twice
    judge_nights(lambda dark: enhance(model, dark), nights)

A scene with lamps is harder than an evenly dark one: what is right for the dark around a lamp is too much for the lamp.
Networks that learned from evenly dark pictures turn lit walls green and red lights pink there, and no mean over pixels
shows it, since such pixels are few. So each failure is counted by itself, in pixels of the dark frame that are *lit*:
whose brightest channel has at least `LIT` of 255 levels.
"""
from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Callable, Sequence

import numpy as np

from mirnet_torch.measures.metrics import mean_score, psnr, ssim
from mirnet_torch.scenes.panoramas import expose_twice, find_panoramas, random_view, read_panorama

Picture = np.ndarray  # uint8 (H, W, 3), sRGB
VIEWS = 8  # of every held-out panorama
LIT = 128  # levels of the brightest channel
NEUTRAL, COLOURED = 24, 64  # levels between a pixel's largest and smallest channel: at most, and more than
SATURATED = 0.5  # that difference, relative to the largest channel, at least
COLOURLESS = 8  # levels: less of a difference has no hue
DARKER = 8  # levels of brightness
WHITE = 250  # levels of the smallest channel, at least
RING, AROUND = 6, 16  # pixels from lit places: a halo is the error near lights, less that farther off
BLENDS = (0.0, 0.25, 0.5, 0.75)  # shares of the truth in inputs
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True)
class Night:
    """A scene of the night: the dark frame and the photograph that it should have been."""

    name: str
    dark: Picture
    truth: Picture


@dataclass(frozen=True)
class NightFigures:
    """How pictures of nights came out. Shares are of all pixels of all pictures, in per cent."""

    psnr: float
    """Mean over the pictures, dB."""
    ssim: float
    coloured: float
    """Lit, neutral pixels (channels within `NEUTRAL` levels) that are coloured now (over `COLOURED`)."""
    darker: float
    """Pixels whose brightness fell by over `DARKER` levels."""
    white: float
    """Pixels with all channels at `WHITE` or more, which they were not before."""
    hue: float
    """Median turn of hue, in degrees, of lit and saturated pixels; a lost colour counts as 180. NaN without any."""
    halo: float
    """How far the mean error of brightness near lights is from that farther off, in levels; mean over the pictures."""


def night_frames(folder: str | os.PathLike[str], size: tuple[int, int] = (160, 120), *, lamps: bool = False,
                 seed: int = 0) -> list[Night]:
    """Cut fixed views from the held-out panoramas of a folder and expose each twice.

    Args:
        folder: with panoramas, see `panoramas.find_panoramas`.
        size: (width, height).
        lamps: with lamps and signs added, coloured ones too, of which most panoramas have few.
        seed: of directions, exposures and noise.

    Raises:
        UserError: as `panoramas.find_panoramas` and `panoramas.read_panorama`.
    """
    nights = []
    for number, path in enumerate(find_panoramas(folder)[1]):
        panorama = read_panorama(path)
        for view in range(VIEWS):
            rng = np.random.default_rng((seed, number, view, int(lamps)))
            dark, truth = expose_twice(random_view(panorama, size, rng), rng=rng, lamps=lamps)
            nights.append(Night(f"{path.stem}-{view + 1}", dark, truth))
    return nights


def judge_nights(restore: Callable[[Picture], Picture], nights: Sequence[Night]) -> NightFigures:
    """Restore the dark frames and measure what came out."""
    return night_figures([restore(night.dark) for night in nights], nights)


def night_figures(pictures: Sequence[Picture], nights: Sequence[Night]) -> NightFigures:
    """Measure pictures that were made of the nights' dark frames, in their order."""
    pairs = list(zip(pictures, nights))
    pixels = sum(night.dark.shape[0] * night.dark.shape[1] for night in nights)
    turns = np.concatenate([hue_turns(night.dark, picture) for picture, night in pairs])
    coloured, darker, white = (100 * sum(int(count(night.dark, picture).sum()) for picture, night in pairs) / pixels
                               for count in (turned_coloured, turned_darker, turned_white))
    return NightFigures(
        psnr=mean_score(psnr(picture, night.truth) for picture, night in pairs),
        ssim=mean_score(ssim(picture, night.truth) for picture, night in pairs),
        coloured=coloured, darker=darker, white=white, hue=float(np.median(turns)) if len(turns) else float("nan"),
        halo=mean_score(halo(night, picture) for picture, night in pairs))


def described(found: NightFigures) -> str:
    """Return the figures as a line."""
    return (f"{found.psnr:.2f} dB, SSIM {found.ssim:.3f}; lit neutral pixels coloured {found.coloured:.4f} %, darker "
            f"{found.darker:.3f} %, newly white {found.white:.2f} %; hue turned {found.hue:.1f} degrees, halo "
            f"{found.halo:.1f} levels")


def turned_coloured(dark: Picture, picture: Picture) -> np.ndarray:
    """Tell, bool (H, W), which pixels were lit and neutral and are coloured now."""
    return (dark.max(2) >= LIT) & (_chroma(dark) <= NEUTRAL) & (_chroma(picture) > COLOURED)


def turned_darker(dark: Picture, picture: Picture) -> np.ndarray:
    """Tell, bool (H, W), which pixels lost over `DARKER` levels of brightness (luma, BT.601)."""
    return picture @ LUMA < dark @ LUMA - DARKER


def turned_white(dark: Picture, picture: Picture) -> np.ndarray:
    """Tell, bool (H, W), which pixels are white now and were not."""
    return (picture.min(2) >= WHITE) & (dark.min(2) < WHITE)


def hue_turns(dark: Picture, picture: Picture) -> np.ndarray:
    """Return by how many degrees, 0 to 180, hue (of HSV) turned in every pixel that was lit and saturated, (N,)."""
    chosen = (dark.max(2) >= LIT) & (_chroma(dark) >= SATURATED * dark.max(2))
    before, after = dark[chosen], picture[chosen]
    turn = np.abs(_hue(before) - _hue(after))
    return np.where(_chroma(after) < COLOURLESS, 180.0, np.minimum(turn, 360 - turn))


def halo(night: Night, picture: Picture) -> float:
    """Return how the error of brightness near lit places differs from that farther off, in levels; NaN without any.

    Near are pixels within `RING` of a lit one, farther off those within `AROUND`; lit ones count in neither.
    """
    from scipy import ndimage  # comes with scikit-image, of the extra [train]; --help does not need it

    lit = night.dark.max(2) >= LIT
    if not lit.any():
        return float("nan")
    distance = ndimage.distance_transform_edt(~lit)
    ring, around = (distance > 0) & (distance <= RING), (distance > RING) & (distance <= AROUND)
    if not ring.any() or not around.any():
        return float("nan")
    error = (picture.astype(float) - night.truth) @ LUMA
    return float(abs(error[ring].mean() - error[around].mean()))


def robustness(restore: Callable[[Picture], Picture], nights: Sequence[Night]) -> list[float]:
    """Return the mean PSNR in dB with inputs blended with their truths in the shares of `BLENDS`.

    The more of a picture is right already, the better should be what comes out; many networks lose instead.
    """
    def blended(night: Night, share: float) -> Picture:
        return np.rint((1 - share) * night.dark + share * night.truth).astype(np.uint8)
    return [mean_score(psnr(restore(blended(night, share)), night.truth) for night in nights) for share in BLENDS]


def _chroma(picture: Picture) -> np.ndarray:
    """Return levels between the largest and the smallest channel, int (...)."""
    return picture.max(-1).astype(int) - picture.min(-1)


def _hue(pixels: np.ndarray) -> np.ndarray:
    """Return the hue of HSV, in degrees, of uint8 (N, 3); 0 for grey."""
    red, green, blue = pixels.astype(float).T
    chroma, top = np.maximum(_chroma(pixels), 1), pixels.max(-1)
    sixths = np.select([top == red, top == green], [(green - blue) / chroma, 2 + (blue - red) / chroma],
                       4 + (red - green) / chroma)
    return 60 * sixths % 360
