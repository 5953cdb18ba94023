"""Findings of a sweep: how far maps, grades and rankings disagree, beside the noise floor."""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from models.saliency.graders.agreement import bootstrap, krippendorff
from models.saliency.ranks import spearman_matrix
from models.saliency.results import EvaluationResults, MapKey
from models.saliency.spec.graders import LOWER_IS_BETTER
from models.saliency.spec.methods import NO_BASELINE

CONTROLS = ("random", "centre_gaussian", "edge", "constant")
FACTORS = ("baseline", "hyper-parameter", "seed", "method")


def family(method: str) -> str:
    """The id of a method without the number of its variant."""
    return method.rpartition("-")[0] if method.rpartition("-")[2].isdigit() else method


def factor(a: MapKey, b: MapKey) -> str | None:
    """The only factor in which two maps differ; None if they differ in several."""
    differs = {
        "baseline": a.baseline != b.baseline,
        "hyper-parameter": a.method != b.method and family(a.method) == family(b.method),
        "method": family(a.method) != family(b.method),
        "seed": a.seed != b.seed and a.method == b.method,
    }
    if differs["method"] and NO_BASELINE in (a.baseline, b.baseline):
        differs["baseline"] = False  # a method without a baseline is compared at every baseline
    differing = [name for name, different in differs.items() if different]
    return differing[0] if len(differing) == 1 else None


def cases(results: EvaluationResults) -> Iterator[tuple[tuple[str, int], list[MapKey]]]:
    """The keys of the maps of each image and class."""
    groups: dict[tuple[str, int], list[MapKey]] = defaultdict(list)
    for key in results.maps:
        groups[key.image, key.target].append(key)
    yield from groups.items()


def divergence(results: EvaluationResults, seed: int) -> dict[str, Any]:
    """Mean of 1 - Spearman over pairs of maps that differ in one factor, by family of methods.

    Pairs are averaged per image first; ``interval`` is a bootstrap over images with ``seed``. The
    factor ``seed`` gives the noise floor: a divergence below it is no finding (README, eq. 18).
    """
    by: dict[tuple[str, str], dict[tuple[str, int], list[float]]] = defaultdict(dict)
    for case, keys in cases(results):
        matrix = spearman_matrix(np.stack([results.maps[key] for key in keys]))
        for (i, a), (j, b) in itertools.combinations(enumerate(keys), 2):
            name = factor(a, b)
            if name in (None, "method") or np.isnan(matrix[i, j]):
                continue
            by[family(a.method), str(name)].setdefault(case, []).append(1 - matrix[i, j])
    summary: dict[str, Any] = defaultdict(dict)
    for (method, name), images in by.items():
        means = np.array([np.mean(values) for values in images.values()])
        summary[method][name] = {
            "mean": float(means.mean()),
            "least": float(means.min()),
            "greatest": float(means.max()),
            "interval": bootstrap(means, seed),
            "pairs": sum(map(len, images.values())),
        }
    return dict(summary)


def method_agreement(results: EvaluationResults) -> tuple[list[str], Float[np.ndarray, "n n"]]:
    """Names of methods, and the mean Spearman correlation of every two at the same baseline.

    The diagonal compares seeds; it is 1 without a second seed.
    """
    names = list(dict.fromkeys(key.method for key in results.maps))
    sums, counts = (np.zeros((len(names), len(names))) for _ in range(2))
    for _, keys in cases(results):
        matrix = spearman_matrix(np.stack([results.maps[key] for key in keys]))
        for (i, a), (j, b) in itertools.product(enumerate(keys), repeat=2):
            same = a.baseline == b.baseline or NO_BASELINE in (a.baseline, b.baseline)
            if same and i != j and not np.isnan(matrix[i, j]):
                pair = names.index(a.method), names.index(b.method)
                sums[pair] += matrix[i, j]
                counts[pair] += 1
    counts[counts == 0] = np.nan
    means = sums / counts
    unseeded = np.isnan(means.diagonal())  # without a second seed a map agrees with itself
    means[np.flatnonzero(unseeded), np.flatnonzero(unseeded)] = 1.0
    return names, means


def candidates_of(results: EvaluationResults) -> list[tuple[str, str]]:
    """Pairs of method and baseline, the candidates that graders rank."""
    return list(dict.fromkeys((key.method, key.baseline) for key in results.maps))


def lower_is_better(grader: str) -> bool:
    """Whether lower grades are better, by the label of a grader."""
    return grader.partition("@")[0].partition("-")[0] in LOWER_IS_BETTER


def goodness(
    results: EvaluationResults, graders: list[str]
) -> Mapping[str, Float[np.ndarray, "images candidates"]]:
    """Grades with a sign so that higher is better, by grader; mean over seeds, NaN for none."""
    candidates = candidates_of(results)
    signed = {}
    for grader in graders:
        sign = -1 if lower_is_better(grader) else 1
        rows = []
        for _, keys in cases(results):
            values: dict[tuple[str, str], list[float]] = defaultdict(list)
            for key in keys:
                value = results.grades[key][grader]
                if value is not None:
                    values[key.method, key.baseline].append(sign * value)
            rows.append([np.mean(values[m]) if values[m] else np.nan for m in candidates])
        signed[grader] = np.array(rows, dtype=np.float64)
    return signed


def grader_agreement(
    good: Mapping[str, Float[np.ndarray, "_i _m"]],
) -> tuple[list[str], Float[np.ndarray, "n n"]]:
    """Names of graders, and Kendall's tau between the rankings of every two, mean over images.

    Args:
        good: as :func:`goodness` returns it.
    """
    names = list(good)
    matrix = np.full((len(names), len(names)), np.nan)
    for i, j in itertools.product(range(len(names)), repeat=2):
        taus = []
        for a, b in zip(good[names[i]], good[names[j]], strict=True):
            known = ~(np.isnan(a) | np.isnan(b))
            if known.sum() > 1 and min(np.ptp(a[known]), np.ptp(b[known])) > 0:
                taus.append(stats.kendalltau(a[known], b[known]).statistic)
        matrix[i, j] = np.mean(taus) if taus else np.nan
    return names, matrix


def reliability(good: Mapping[str, Float[np.ndarray, "_i _m"]]) -> dict[str, float | None]:
    """Krippendorff's alpha of each grader, with images as raters that rank methods."""
    alphas: dict[str, float | None] = {}
    for name, values in good.items():
        known = values[:, ~np.isnan(values).any(0)]
        ranks = stats.rankdata(known, axis=1) if known.size else known
        alphas[name] = krippendorff(ranks)
    return alphas


def winners(
    results: EvaluationResults, good: Mapping[str, Float[np.ndarray, "_i _m"]]
) -> dict[str, Any]:
    """Share of images whose best method changes with the grader's baseline, by grader id."""
    candidates = candidates_of(results)
    by: dict[str, list[list[str]]] = defaultdict(list)
    for name, values in good.items():
        best = [candidates[int(np.nanargmax(row))][0] for row in values if not np.isnan(row).all()]
        by[name.partition("@")[0]].append(best)
    return {
        name: float(np.mean([len(set(image)) > 1 for image in zip(*rows, strict=False)]))
        for name, rows in by.items()
        if len(rows) > 1
    }


def controls(
    results: EvaluationResults, good: Mapping[str, Float[np.ndarray, "_i _m"]]
) -> dict[str, Any]:
    """Share of pairs in which a control's grade is at least a method's, by grader and control."""
    candidates = candidates_of(results)
    shares: dict[str, Any] = {}
    for name, values in good.items():
        for column, (method, _) in enumerate(candidates):
            if family(method) not in CONTROLS:
                continue
            others = [
                i for i, candidate in enumerate(candidates) if family(candidate[0]) not in CONTROLS
            ]
            pairs = values[:, [column]] >= values[:, others]
            known = ~(np.isnan(values[:, [column]]) | np.isnan(values[:, others]))
            if known.any():
                shares.setdefault(name, {})[method] = float(pairs[known].mean())
    return shares


def interaction(results: EvaluationResults, graders: list[str]) -> list[dict[str, Any]]:
    """Mean grade by method, baseline of the map and grader."""
    by: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for key, grades in results.grades.items():
        for name in graders:
            value = grades[name]
            if value is not None:
                by[key.method, key.baseline, name].append(value)
    return [
        {"method": m, "baseline": b, "grader": g, "mean": float(np.mean(v)), "maps": len(v)}
        for (m, b, g), v in by.items()
    ]


def finite(matrix: Float[np.ndarray, "n m"]) -> list[list[float | None]]:
    """A matrix as nested lists, with None for NaN."""
    return [[None if np.isnan(value) else float(value) for value in row] for row in matrix]
