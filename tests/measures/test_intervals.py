"""Intervals of means: against scipy's bootstrap, against the theory, and what a difference says."""
from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mirnet_torch.measures.intervals import FEWEST, Interval, bootstrap, paired, tail_of


def test_equal_to_scipy_s_bootstrap():
    scores = np.random.default_rng(1).gamma(2, 3, 45)
    ours = bootstrap(scores)
    theirs = stats.bootstrap((scores,), np.mean, n_resamples=20_000, method="percentile",
                             confidence_level=1 - 2 * tail_of(45)).confidence_interval
    assert ours.mean == pytest.approx(scores.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.05 * (theirs.high - theirs.low))


@pytest.mark.parametrize("count", [6, 40])
def test_most_intervals_hold_the_true_mean_and_are_as_wide_as_student_s(count):
    rng, widths, hits = np.random.default_rng(0), [], 0
    for _ in range(60):
        scores = rng.normal(5, 2, count)
        found = bootstrap(scores)
        hits += found.low <= 5 <= found.high
        widths.append((found.high - found.low) / np.ptp(stats.t.interval(0.95, count - 1, scale=stats.sem(scores))))
    assert 53 <= hits <= 60 and np.mean(widths) == pytest.approx(1, abs=0.07)


def test_the_same_seed_gives_the_same_and_many_pictures_are_drawn_in_parts(monkeypatch):
    scores = np.random.default_rng(2).normal(20, 3, 300)
    found = bootstrap(scores)
    assert bootstrap(scores) == found != bootstrap(scores, seed=1)
    monkeypatch.setattr("mirnet_torch.measures.intervals._BLOCK", 3 * 300)
    assert bootstrap(scores) == found


def test_scores_that_are_not_finite_count_as_in_the_mean():
    scores = [1.0, 2.0, math.inf, 3.0, math.nan, 4.0, 5.0]
    assert bootstrap(scores) == bootstrap([1.0, 2.0, 3.0, 4.0, 5.0])
    few = bootstrap([1.0, 2.0, 3.0, math.inf])
    assert few.mean == 2.0 and math.isnan(few.low) and few.holds_zero and FEWEST == 5


def test_a_small_common_gain_shows_although_pictures_differ_much():
    rng = np.random.default_rng(3)
    reference = rng.normal(20, 4, 45)
    better, same = reference + rng.normal(0.3, 0.2, 45), reference + rng.normal(0.0, 1.0, 45)
    gain = paired(better, reference)
    assert gain.low > 0 and gain.mean == pytest.approx((better - reference).mean()) and not gain.holds_zero
    assert bootstrap(better).low < bootstrap(reference).high  # the intervals of the means overlap
    assert paired(same, reference).holds_zero and paired(reference, reference) == Interval(0.0, 0.0, 0.0)
    assert paired([*better, math.inf], [*reference, 9.0]) == gain


def test_other_pictures_are_no_pairs():
    with pytest.raises(ValueError):
        paired([1.0, 2.0], [1.0])
