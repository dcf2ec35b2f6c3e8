"""Each figure of a night on small pictures in which the answer is known."""
from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.color import rgb2hsv
from small_panoramas import scene, write_radiance

from mirnet_torch.cli import UserError
from mirnet_torch.measures.nights import (BLENDS, Night, halo, hue_turns, judge_nights, night_figures, night_frames,
                                          robustness)


def picture(colour, size=(20, 20)):
    return np.full((*size, 3), colour, np.uint8)


def with_pixels(base, changes):
    """Return a copy with the pixels (row, column) in other colours."""
    changed = base.copy()
    for place, colour in changes.items():
        changed[place] = colour
    return changed


DARK = with_pixels(picture((20, 20, 20)), {(0, 0): (150, 150, 140), (0, 1): (200, 30, 20), (0, 2): (128, 128, 128)})
NIGHT = Night("night", DARK, picture((100, 100, 100)))


def test_what_is_left_alone_has_no_failures():
    figures = night_figures([DARK], [NIGHT])
    assert (figures.coloured, figures.darker, figures.white, figures.hue) == (0, 0, 0, 0)


@pytest.mark.parametrize("changes, expected", [
    ({(0, 0): (150, 250, 150)}, {"coloured": 0.25}),  # a lit white wall turned green
    ({(0, 0): (150, 200, 140)}, {}),  # 60 levels are no failure
    ({(5, 5): (20, 220, 20)}, {}),  # it was not lit
    ({(0, 2): (30, 30, 130)}, {"coloured": 0.25, "darker": 0.25}),  # a lit sign turned dark blue
    ({(5, 5): (13, 13, 13), (6, 6): (11, 11, 11)}, {"darker": 0.25}),  # 7 and 9 levels
    ({(5, 5): (250, 251, 252), (6, 6): (255, 255, 249)}, {"white": 0.25}),
    ({(0, 1): (200, 20, 30)}, {"hue": 6.67}),  # from 3.33 to 356.67 degrees: across 0
    ({(0, 1): (200, 200, 200)}, {"hue": 180}),  # the colour is gone
])
def test_failures_are_counted(changes, expected):
    figures = night_figures([with_pixels(DARK, changes)], [NIGHT])
    found = {name: getattr(figures, name) for name in ("coloured", "darker", "white", "hue")}
    assert found == pytest.approx({"coloured": 0, "darker": 0, "white": 0, "hue": 0, **expected}, abs=0.01)


def test_white_before_is_not_newly_white():
    white = Night("white", picture((255, 255, 255)), picture((255, 255, 255)))
    assert night_figures([white.dark], [white]).white == 0
    assert math.isnan(night_figures([white.dark], [white]).hue)  # nothing is saturated


def test_hue_is_that_of_hsv():
    rng = np.random.default_rng(0)
    dark, after = rng.integers(0, 256, (2, 60, 60, 3), np.uint8)
    lit = (dark.max(2) >= 128) & (dark.max(2).astype(int) - dark.min(2) >= dark.max(2) / 2)
    clear = lit & (after.max(2).astype(int) - after.min(2) >= 8)
    hues = [360 * rgb2hsv(each)[..., 0] for each in (dark, after)]
    turn = np.abs(hues[0] - hues[1])
    expected = np.where(clear, np.minimum(turn, 360 - turn), 180)[lit]
    np.testing.assert_allclose(hue_turns(dark, after), expected, atol=1e-6)


def test_a_halo_is_a_ring_that_is_darker_or_brighter_than_what_is_around():
    dark, truth = picture((10, 10, 10), (60, 60)), picture((90, 90, 90), (60, 60))
    dark[30, 30] = 200
    night = Night("lamp", dark, truth)
    assert halo(night, truth) == 0
    assert halo(night, truth + np.uint8(20)) == 0  # brighter everywhere is no halo
    distance = np.hypot(*(np.indices((60, 60)) - 30))
    ring = truth.copy()
    ring[distance <= 6] = 60
    assert halo(night, ring) == pytest.approx(30, abs=0.01)
    assert math.isnan(halo(Night("dark", picture((10, 10, 10)), truth), truth))  # no lamp, no halo


def test_robustness_blends_inputs_with_their_truths():
    seen = []

    def restore(dark):
        seen.append(int(dark[5, 5, 0]))
        return NIGHT.truth - np.uint8(len(seen))
    curve = robustness(restore, [NIGHT])
    assert seen == [round((1 - share) * 20 + share * 100) for share in BLENDS]
    assert curve == pytest.approx([20 * math.log10(255 / error) for error in (1, 2, 3, 4)])


@pytest.fixture
def panoramas(tmp_path):
    for number, name in enumerate("abcd"):
        write_radiance(tmp_path / f"{name}.hdr", scene(32, seed=number))
    return tmp_path


def test_frames_are_fixed_views_of_the_held_out_panoramas(panoramas):
    nights = night_frames(panoramas, (32, 24))
    assert [night.name for night in nights] == [f"d-{view}" for view in range(1, 9)]
    assert len({night.dark.tobytes() for night in nights}) == 8
    again = night_frames(panoramas, (32, 24))
    assert all(np.array_equal(a.dark, b.dark) and np.array_equal(a.truth, b.truth) for a, b in zip(nights, again))
    lit = night_frames(panoramas, (32, 24), lamps=True)
    assert not any(np.array_equal(a.dark, b.dark) for a, b in zip(nights, lit))
    for night in nights:
        assert night.dark.shape == night.truth.shape == (24, 32, 3)
        assert night.dark.mean() < night.truth.mean() / 1.5


def test_judging_restores_every_frame(panoramas):
    nights = night_frames(panoramas, (32, 24))
    truths = {night.dark.tobytes(): night.truth for night in nights}
    figures = judge_nights(lambda dark: truths[dark.tobytes()], nights)
    assert figures.psnr == math.inf and figures.ssim == pytest.approx(1) and figures.halo == 0
    untouched = judge_nights(lambda dark: dark, nights)
    assert untouched.psnr < 20 and untouched.darker == 0 and untouched.hue == 0


def test_a_folder_without_panoramas_gets_one_line(tmp_path):
    with pytest.raises(UserError, match="has 0 panoramas"):
        night_frames(tmp_path)
