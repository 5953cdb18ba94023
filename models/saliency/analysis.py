"""Agreement of methods and of graders in a sweep, each with its interval over images."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from models.saliency.effects import ImageMaps
from models.saliency.estimates import jackknife, mean_over_images, share_of_images
from models.saliency.graders.agreement import krippendorff
from models.saliency.results import EvaluationResults, MapKey
from models.saliency.spec.graders import LOWER_IS_BETTER
from models.saliency.spec.methods import NO_BASELINE

CONTROLS = ("random", "centre_gaussian", "edge", "constant")


def family(method: str) -> str:
    """The id of a method without the number of its variant."""
    return method.rpartition("-")[0] if method.rpartition("-")[2].isdigit() else method


class Matrix:
    """Numbers of every two of some things, image by image, as means with intervals.

    Args:
        names: of the things.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._values: dict[tuple[int, int], dict[str, list[float]]] = defaultdict(dict)

    def add(self, image: str, i: int, j: int, value: float) -> None:
        """Add a number of the i-th and the j-th in an image."""
        self._values[i, j].setdefault(image, []).append(value)

    def as_json(self, figure: str) -> dict[str, Any]:
        """Names, and matrices of means under ``figure`` and of ``interval``, null for none."""
        count = range(len(self.names))
        cells = [[self._cell(i, j) for j in count] for i in count]
        return {
            "names": self.names,
            figure: [[cell["mean"] for cell in row] for row in cells],
            "interval": [[cell["interval"] for cell in row] for row in cells],
        }

    def _cell(self, i: int, j: int) -> dict[str, Any]:
        images = self._values.get((i, j), {})
        return mean_over_images(np.array([np.mean(values) for values in images.values()]))


def method_agreement(maps: list[ImageMaps]) -> dict[str, Any]:
    """Mean Spearman correlation of every two methods at the same baseline.

    The diagonal compares seeds; it is null without a second seed.
    """
    names = list(dict.fromkeys(key.method for one in maps for key in one.keys))
    matrix = Matrix(names)
    for one in maps:
        for i, a in enumerate(one.keys):
            for j, b in enumerate(one.keys):
                same = a.baseline == b.baseline or NO_BASELINE in (a.baseline, b.baseline)
                if same and i != j and not np.isnan(one.spearman[i, j]):
                    pair = names.index(a.method), names.index(b.method)
                    matrix.add(one.image, *pair, float(one.spearman[i, j]))
    return matrix.as_json("spearman")


def cases(results: EvaluationResults, left_out: set[str]) -> dict[tuple[str, int], list[MapKey]]:
    """The keys of the maps of each image and class that counts."""
    groups: dict[tuple[str, int], list[MapKey]] = defaultdict(list)
    for key in results.maps:
        if key.image not in left_out:
            groups[key.image, key.target].append(key)
    return groups


def candidates_of(results: EvaluationResults) -> list[tuple[str, str]]:
    """Pairs of method and baseline, the candidates that graders rank."""
    return list(dict.fromkeys((key.method, key.baseline) for key in results.maps))


def lower_is_better(grader: str) -> bool:
    """Whether lower grades are better, by the label of a grader."""
    return grader.partition("@")[0].partition("-")[0] in LOWER_IS_BETTER


class Goodness:
    """Grades with a sign so that higher is better.

    Args:
        results: of a sweep.
        graders: their labels.
        left_out: names of images that the spec excludes.

    Attributes:
        images: name of the image of each row; an image has a row for each class.
        candidates: method and baseline of each column.
        grades: by grader, [rows, columns], mean over seeds, NaN for none.
        draws: by grader, row and column, the grades of all seeds.
    """

    def __init__(
        self, results: EvaluationResults, graders: list[str], left_out: set[str] | None = None
    ) -> None:
        groups = cases(results, left_out or set())
        self.images = [image for image, _ in groups]
        self.candidates = candidates_of(results)
        self.draws = {name: self._draws(results, name, groups) for name in graders}
        self.grades = {
            name: np.array(
                [[np.mean(grades) if grades else np.nan for grades in row] for row in rows],
                dtype=np.float64,
            ).reshape(len(groups), len(self.candidates))
            for name, rows in self.draws.items()
        }

    def _draws(
        self,
        results: EvaluationResults,
        grader: str,
        groups: Mapping[tuple[str, int], list[MapKey]],
    ) -> list[list[list[float]]]:
        sign, rows = -1 if lower_is_better(grader) else 1, []
        for keys in groups.values():
            values: dict[tuple[str, str], list[float]] = defaultdict(list)
            for key in keys:
                if (value := results.grades[key][grader]) is not None:
                    values[key.method, key.baseline].append(sign * value)
            rows.append([values[candidate] for candidate in self.candidates])
        return rows

    def by_image(self, rows: Float[np.ndarray, "rows m"]) -> Float[np.ndarray, "images m"]:
        """Rows of the classes of an image as their mean."""
        names = np.array(self.images)
        means = [rows[names == name].mean(0) for name in dict.fromkeys(self.images)]
        return np.array(means).reshape(len(means), rows.shape[1])

    def tested(self) -> list[int]:
        """Columns of candidates that are no controls."""
        return [
            column
            for column, (method, _) in enumerate(self.candidates)
            if family(method) not in CONTROLS
        ]


def grader_agreement(good: Goodness) -> dict[str, Any]:
    """Kendall's tau between the rankings of methods by every two graders, mean over images."""
    names = list(good.grades)
    matrix = Matrix(names)
    for row, image in enumerate(good.images):
        for i, first in enumerate(names):
            for j, second in enumerate(names):
                a, b = good.grades[first][row], good.grades[second][row]
                known = ~(np.isnan(a) | np.isnan(b))
                if known.sum() > 1 and min(np.ptp(a[known]), np.ptp(b[known])) > 0:
                    tau = stats.kendalltau(a[known], b[known]).statistic
                    matrix.add(image, i, j, float(tau))
    return matrix.as_json("kendall")


def reliability(good: Goodness) -> dict[str, Any]:
    """Krippendorff's alpha of each grader, with images as raters that rank methods.

    1: every image ranks them alike; 0: no more alike than chance; below 0: less alike than chance,
    as when some images favour what others rank last.
    """
    alphas = {}
    for name, values in good.grades.items():
        known = values[:, ~np.isnan(values).any(0)]
        ranks = stats.rankdata(known, axis=1) if known.size else known
        alphas[name] = jackknife(krippendorff, good.by_image(ranks))
    return alphas


def winners(good: Goodness) -> dict[str, Any]:
    """Share of images whose best method changes with the grader's baseline, by grader id.

    Controls cannot be best. Of an image with several classes one suffices.
    """
    by: dict[str, list[list[str]]] = defaultdict(list)
    columns = good.tested()
    for name, values in good.grades.items():
        rows = values[:, columns]
        by[name.partition("@")[0]].append([_best(row, good, columns) for row in rows])
    shares = {}
    for name, rows in by.items():
        if len(rows) > 1:
            changes = [len(set(best)) > 1 for best in zip(*rows, strict=True)]
            means = good.by_image(np.array(changes, dtype=np.float64)[:, None])
            shares[name] = share_of_images(means.ravel() > 0)
    return shares


def _best(row: Float[np.ndarray, "m"], good: Goodness, columns: list[int]) -> str:
    if not row.size or np.isnan(row).all():
        return ""
    return good.candidates[columns[int(np.nanargmax(row))]][0]


def controls(good: Goodness) -> dict[str, Any]:
    """How often a control is graded at least as well as a method, by grader and control.

    Every draw of a random control is compared with every method and baseline, each the mean over
    its seeds; shares are averaged per image.
    """
    shares: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, rows in good.draws.items():
        for column, (method, _) in enumerate(good.candidates):
            if family(method) not in CONTROLS:
                continue
            others = good.grades[name][:, good.tested()]
            of_rows = [
                [_not_beaten(np.array(row[column]), other[~np.isnan(other)])]
                for row, other in zip(rows, others, strict=True)
            ]
            share = good.by_image(np.array(of_rows).reshape(-1, 1)).ravel()
            draws = max((len(row[column]) for row in rows), default=0)
            shares[name][method] = mean_over_images(share) | {"draws": draws}
    return dict(shares)


def _not_beaten(draws: Float[np.ndarray, "d"], others: Float[np.ndarray, "m"]) -> float:
    return float((draws[:, None] >= others).mean()) if draws.size and others.size else np.nan


def interaction(
    results: EvaluationResults, graders: list[str], left_out: set[str]
) -> list[dict[str, Any]]:
    """Mean grade by method, baseline of the map and grader."""
    by: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for key, grades in results.grades.items():
        if key.image in left_out:
            continue
        for name in graders:
            value = grades[name]
            if value is not None:
                by[key.method, key.baseline, name].append(value)
    return [
        {"method": m, "baseline": b, "grader": g, "mean": float(np.mean(v)), "maps": len(v)}
        for (m, b, g), v in by.items()
    ]
