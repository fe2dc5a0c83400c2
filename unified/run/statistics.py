"""Differences between two arms over the same seeds, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan

import numpy as np
from scipy import stats

RESAMPLES, ROUNDING = 10_000, 1e-12


@dataclass(frozen=True)
class Difference:
    """A mean difference with what is known of it.

    Attributes:
        mean: over the seeds.
        low, high: 95 % of the means of differences drawn with replacement lie between; NaN of one
            seed. Of few seeds they lie too close together: read `p` beside them.
        p: of Student's paired test, two-sided; NaN of one seed, and where differences do not vary,
            of which the test says nothing.
    """

    mean: float
    low: float
    high: float
    p: float

    @property
    def shown(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def paired(arm: Sequence[float], other: Sequence[float]) -> Difference:
    """Of scores of the same seeds, in the same order."""
    differences = np.asarray(arm, float) - np.asarray(other, float)
    mean, count = float(differences.mean()), len(differences)
    if count < 2:
        return Difference(mean, nan, nan, nan)
    drawn = np.random.default_rng(0).choice(differences, (RESAMPLES, count)).mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975)).tolist()
    if np.ptp(differences) <= ROUNDING:
        return Difference(mean, low, high, nan if abs(mean) > ROUNDING else 1.0)
    return Difference(mean, low, high, float(stats.ttest_1samp(differences, 0).pvalue))


def holm(values: Sequence[float]) -> list[float]:
    """p corrected for the number of comparisons (Holm 1979); NaN is none."""
    order = sorted((p, place) for place, p in enumerate(values) if not isnan(p))
    corrected, least = list(values), 0.0
    for rank, (p, place) in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * p))
        corrected[place] = least
    return corrected
