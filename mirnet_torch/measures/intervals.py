"""How sure a mean over pictures is: 95 % intervals by the bootstrap, and differences of methods, picture by picture.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile intervals); Hesterberg,
"What Teachers Should Know About the Bootstrap", The American Statistician 2015: they are too narrow for few pictures,
so their percentiles are those that make them as wide as Student's. The pictures are drawn again, so an interval says
how the mean would vary with other pictures of this kind. A difference is taken on the same picture, so what all
pictures have in common does not blur it.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Sequence

import numpy as np

from mirnet_torch.measures.metrics import mean_score

LEVEL = 0.95
RESAMPLES = 10_000
FEWEST = 5  # pictures; fewer give no interval
_BLOCK = 2 ** 21  # drawn numbers in memory


@dataclass(frozen=True)
class Interval:
    """A mean over pictures and its 95 % interval; NaN ends if there are under `FEWEST` pictures with a finite score."""

    mean: float
    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        """Whether 0 is in it. An interval without ends holds every number."""
        return not (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Difference:
    """The mean difference of a metric, `method` minus `reference`, over the pictures for which both have a score."""

    method: str
    reference: str
    metric: str
    interval: Interval


def bootstrap(scores: Sequence[float], *, seed: int = 0) -> Interval:
    """Return the mean of the finite scores (see `metrics.mean_score`) and its interval; the same seed gives the same.

    Args:
        scores: one for every picture.
        seed: of the pictures drawn.
    """
    values = np.array([score for score in scores if math.isfinite(score)])
    mean = mean_score(scores)
    if len(values) < FEWEST:
        return Interval(mean, math.nan, math.nan)
    rng, rows = np.random.default_rng(seed), max(1, _BLOCK // len(values))
    means = [values[rng.integers(len(values), size=(min(rows, RESAMPLES - first), len(values)))].mean(1)
             for first in range(0, RESAMPLES, rows)]
    tail = tail_of(len(values))
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


def tail_of(count: int) -> float:
    """Return the share of the resampled means beyond either end of an interval for `count` pictures."""
    from scipy import stats  # comes with scikit-image, of the extra [train]
    return float(stats.norm.cdf(math.sqrt(count / (count - 1)) * stats.t.ppf((1 - LEVEL) / 2, count - 1)))


def paired(scores: Sequence[float], others: Sequence[float], *, seed: int = 0) -> Interval:
    """Return the mean difference of two methods' scores of the same pictures, the first minus the second."""
    return bootstrap([score - other for score, other in zip(scores, others, strict=True)
                      if math.isfinite(score) and math.isfinite(other)], seed=seed)
