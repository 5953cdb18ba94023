"""Means over images with their intervals, and tests of several comparisons at once."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

LEAST_IMAGES = 10  # an interval over fewer says more of the method than of the images
CONFIDENCE = 0.95
TOO_FEW = f"no interval: below {LEAST_IMAGES} images its own error is as large as what it tells"


def mean_over_images(values: Float[np.ndarray, "images"]) -> dict[str, Any]:
    """The mean of a number over images, NaN left out, with its 95 % t interval.

    An image is the unit: what varies within it (targets, seeds, pairs) is averaged before.

    Args:
        values: one number an image.

    Returns:
        ``mean``, ``interval`` (null below 10 images, with ``reason``), ``sd`` and ``images``.
    """
    known = values[~np.isnan(values)]
    count = len(known)
    numbers: dict[str, Any] = {
        "mean": float(known.mean()) if count else None,
        "interval": None,
        "sd": float(known.std(ddof=1)) if count > 1 else None,
        "images": count,
    }
    if count < LEAST_IMAGES:
        return numbers | {"reason": TOO_FEW}
    return numbers | {"interval": t_interval(known)}


def t_interval(values: Float[np.ndarray, "n"]) -> list[float]:
    """The 95 % t interval of the mean of two numbers or more."""
    count, mean = len(values), float(values.mean())
    half = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * float(values.std(ddof=1)) / count**0.5
    return [mean - half, mean + half]


def share_of_images(hits: Bool[np.ndarray, "images"]) -> dict[str, Any]:
    """The share of images where something holds, with Wilson's 95 % interval."""
    numbers = {
        "mean": float(hits.mean()) if len(hits) else None,
        "interval": None,
        "images": len(hits),
    }
    if len(hits) < LEAST_IMAGES:
        return numbers | {"reason": TOO_FEW}
    result = stats.binomtest(int(hits.sum()), len(hits))
    low, high = result.proportion_ci(CONFIDENCE, method="wilson")
    return numbers | {"interval": [float(low), float(high)]}


def jackknife(
    statistic: Callable[[Float[np.ndarray, "_i _m"]], float | None],
    rows: Float[np.ndarray, "images _m"],
) -> dict[str, Any]:
    """A statistic of all images with a t interval of its jackknife pseudo-values (Tukey 1958).

    A bootstrap would draw the same image twice, and an image agrees with itself.
    """
    value = statistic(rows)
    numbers = {"mean": value, "interval": None, "images": len(rows)}
    if value is None or len(rows) < LEAST_IMAGES:
        return numbers | ({} if value is None else {"reason": TOO_FEW})
    count = len(rows)
    without = [statistic(np.delete(rows, index, axis=0)) for index in range(count)]
    if None in without:
        return numbers
    pseudo = count * value - (count - 1) * np.array(without, dtype=np.float64)
    low, high = mean_over_images(pseudo)["interval"]
    shift = value - float(pseudo.mean())  # the interval is about the statistic itself
    return numbers | {"interval": [low + shift, high + shift]}


def p_value(differences: Float[np.ndarray, "images"]) -> float | None:
    """Two-sided p of a t test that the mean over images is 0; None below 10 images."""
    known = differences[~np.isnan(differences)]
    if len(known) < LEAST_IMAGES:
        return None
    if np.ptp(known) == 0:  # the same in every image: the t statistic is 0 / 0 or infinite
        return 1.0 if known[0] == 0 else 0.0
    return float(stats.ttest_1samp(known, 0.0).pvalue)


def holm(p: Sequence[float | None]) -> list[float | None]:
    """P values corrected for their number by Holm's step-down method (1979); None stays None."""
    order = sorted((value, index) for index, value in enumerate(p) if value is not None)
    corrected: list[float | None] = [None] * len(p)
    largest = 0.0
    for rank, (value, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * value))
        corrected[index] = largest
    return corrected
