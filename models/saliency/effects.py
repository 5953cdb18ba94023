"""Effects of baselines and hyper-parameters on maps, beside the noise of seeds (README, eq. 18).

Effect and noise come from one design. Two maps of different seeds that differ in the factor too are
compared with two maps of different seeds that agree in it, image by image. Maps of the same seed
share their random masks; they are reported beside it, because shared masks make maps alike.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from models.saliency.estimates import holm, mean_over_images, p_value
from models.saliency.ranks import spearman_matrix
from models.saliency.results import EvaluationResults, MapKey
from models.saliency.spec.comparisons import Comparison
from models.saliency.spec.evaluate import SaliencySweep

LEVEL = 0.05  # of the Holm-corrected p of a finding
LEAST_RELIABILITY = 0.1  # below, a map is noise, and dividing by its reliability is meaningless

CellName = tuple[str, str]  # method and baseline of maps that differ in nothing but the seed


class ImageMaps(NamedTuple):
    """The maps of one image and class.

    Attributes:
        image: its name.
        keys: of the maps.
        spearman: correlation of every two maps, NaN beside a constant one.
        at: positions of the maps of each method and baseline, one a seed.
    """

    image: str
    keys: list[MapKey]
    spearman: Float[np.ndarray, "m m"]
    at: dict[CellName, list[int]]


class PairFigures(NamedTuple):
    """One pair of maps' origins in one image and class; NaN where it cannot be told.

    Attributes:
        effect: mean of 1 - Spearman over different seeds, the factor differing.
        floor: the same expected of noise alone: 1 - the root of the product of both reliabilities,
            each the mean Spearman over different seeds with the factor the same.
        corrected: 1 - Spearman corrected for attenuation (Spearman 1904), without the noise.
        same_seed: mean of 1 - Spearman over equal seeds, the factor differing.
    """

    effect: float
    floor: float
    corrected: float
    same_seed: float


def image_maps(results: EvaluationResults, left_out: set[str]) -> list[ImageMaps]:
    """The maps of each image and class with their correlations.

    Args:
        results: of a sweep.
        left_out: names of images that the spec excludes.
    """
    groups: dict[tuple[str, int], list[MapKey]] = defaultdict(list)
    for key in results.maps:
        if key.image not in left_out:
            groups[key.image, key.target].append(key)
    maps = []
    for (image, _), keys in groups.items():
        at: dict[CellName, list[int]] = defaultdict(list)
        for position, key in enumerate(keys):
            at[key.method, key.baseline].append(position)
        spearman = spearman_matrix(np.stack([results.maps[key] for key in keys]))
        maps.append(ImageMaps(image, keys, spearman, dict(at)))
    return maps


def effects(spec: SaliencySweep, maps: list[ImageMaps]) -> list[dict[str, Any]]:
    """Every comparison of the spec with its difference from noise, corrected by Holm.

    Args:
        spec: of the sweep.
        maps: of its images.

    Returns:
        For each comparison ``effect``, ``floor``, ``difference`` (effect - floor), ``corrected``
        and ``same_seed``, each a mean over images with its interval; ``effect_size`` (Cohen's d of
        the differences); ``p``, ``p_holm`` and ``finding``: whether the difference is above 0 with
        a corrected p below 0.05; null where no test is possible, with ``reason``.
    """
    compared = [_compared(spec, comparison, maps) for comparison in spec.comparisons()]
    for entry, corrected in zip(compared, holm([entry["p"] for entry in compared]), strict=True):
        entry["p_holm"] = corrected
        mean = entry["difference"]["mean"]
        entry["finding"] = None if corrected is None else bool(corrected < LEVEL and mean > 0)
    return compared


def _compared(spec: SaliencySweep, comparison: Comparison, maps: list[ImageMaps]) -> dict[str, Any]:
    pairs, random = list(_pairs(spec, comparison)), spec.random_cells()
    by_image: dict[str, list[PairFigures]] = defaultdict(list)
    for one in maps:
        by_image[one.image] += [_figures(one, a, b, random) for a, b in pairs]
    table = np.array([_mean(figures) for figures in by_image.values()]).reshape(-1, 4)
    difference = table[:, 0] - table[:, 1]
    entry: dict[str, Any] = comparison.model_dump()
    for column, name in enumerate(PairFigures._fields):
        entry[name] = mean_over_images(table[:, column])
    entry["difference"] = mean_over_images(difference)
    entry["effect_size"] = _cohens_d(entry["difference"])
    entry["p"] = p_value(difference)
    if spec.one_seed(comparison):
        entry["reason"] = "the maps are random and of one seed: their noise is unknown"
    elif entry["p"] is None:
        entry["reason"] = entry["difference"].get("reason")
    return entry


def _pairs(spec: SaliencySweep, comparison: Comparison) -> Iterator[tuple[CellName, CellName]]:
    """Pairs of method and baseline that differ in the factor alone."""
    baselines = {
        method: [cell.baseline_label for cell in spec.cells() if cell.method_label == method]
        for method in comparison.methods
    }
    if comparison.factor == "baseline":
        (method,) = comparison.methods
        for a, b in itertools.combinations(baselines[method], 2):
            yield (method, a), (method, b)
    else:
        first, second = comparison.methods
        for baseline in baselines[first]:
            yield (first, baseline), (second, baseline)


def _figures(one: ImageMaps, a: CellName, b: CellName, random: set[CellName]) -> PairFigures:
    positions = list(itertools.product(one.at[a], one.at[b]))
    shared = a in random and b in random  # only then do equal seeds mean equal masks
    equal = [(i, j) for i, j in positions if one.keys[i].seed == one.keys[j].seed]
    across = [pair for pair in positions if not (shared and pair in equal)]
    cross = _correlation(one, across)
    expected = float(np.sqrt(_reliability(one, a, random) * _reliability(one, b, random)))
    ratio = cross / expected if expected >= LEAST_RELIABILITY else np.nan
    same = _correlation(one, equal) if shared else np.nan
    return PairFigures(1 - cross, 1 - expected, 1 - ratio, 1 - same)


def _reliability(one: ImageMaps, name: CellName, random: set[CellName]) -> float:
    """Mean correlation of maps that differ in the seed alone; 1 for maps without randomness."""
    if name not in random:
        return 1.0
    value = _correlation(one, list(itertools.combinations(one.at[name], 2)))
    return value if np.isnan(value) else max(0.0, value)


def _correlation(one: ImageMaps, pairs: list[tuple[int, int]]) -> float:
    known = [value for i, j in pairs if not np.isnan(value := one.spearman[i, j])]
    return float(np.mean(known)) if known else np.nan


def _mean(figures: list[PairFigures]) -> list[float]:
    """Means over the pairs for which effect and floor are both known."""
    known = np.array([row for row in figures if not np.isnan(row.effect + row.floor)])
    if not len(known):
        return [np.nan] * len(PairFigures._fields)
    present = ~np.isnan(known)
    sums = np.where(present, known, 0).sum(0)
    return np.where(present.any(0), sums / present.sum(0).clip(min=1), np.nan).tolist()


def _cohens_d(difference: dict[str, Any]) -> float | None:
    return difference["mean"] / difference["sd"] if difference["sd"] else None


def noise(spec: SaliencySweep, maps: list[ImageMaps]) -> dict[str, Any]:
    """Mean of 1 - Spearman between seeds alone, by random method: what noise does to its maps."""
    by: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one, (method, baseline) in itertools.product(maps, sorted(spec.random_cells())):
        pairs = list(itertools.combinations(one.at.get((method, baseline), []), 2))
        by[method][one.image].append(1 - _correlation(one, pairs))
    means = {
        method: np.array([np.mean(values) for values in images.values()])
        for method, images in by.items()
    }
    return {
        method: mean_over_images(values)
        for method, values in means.items()
        if not np.isnan(values).all()
    }
