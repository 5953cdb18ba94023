"""Means of a few numbers with their 95 % intervals, by Student's t."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

LEVEL = 0.95
# quantiles at (1 + LEVEL) / 2 for 1, 2, ... degrees of freedom
QUANTILES = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
)  # fmt: skip


class Mean(NamedTuple):
    """The mean of ``count`` numbers; the interval is None for a single one, or beyond floats."""

    mean: float
    interval: tuple[float, float] | None
    count: int


def mean_of(values: Sequence[float]) -> Mean | None:
    """Mean and interval for the mean of a normal population.

    Args:
        values: None is the mean of no values, and of those of which one is not finite.
    """
    count = len(values)
    if not count or not all(map(math.isfinite, values)):
        return None
    mean = math.fsum(value / count for value in values)  # the sum may be beyond floats
    if count == 1:
        return Mean(mean, None, 1)
    half = quantile(count - 1) * statistics.stdev(values) / math.sqrt(count)
    interval = mean - half, mean + half
    return Mean(mean, interval if all(map(math.isfinite, interval)) else None, count)


def quantile(freedom: int) -> float:
    """Student's t at (1 + LEVEL) / 2, within 1e-4; beyond 20 by Abramowitz and Stegun, 26.7.5."""
    if freedom <= len(QUANTILES):
        return QUANTILES[freedom - 1]
    z = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
