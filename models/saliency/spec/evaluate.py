"""Specs of ``saliency.evaluate`` and ``saliency.sweep``: maps, graders and their disagreement.

Torch-free.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from models.core.needs import ArtifactNeed, Bound, DatasetNeed, Form, Need
from models.core.spec import (
    FIGURE_DATA,
    VECTOR,
    ArtifactInfo,
    Int,
    MetricInfo,
)
from models.saliency.spec.comparisons import Comparison, comparisons_of, is_random
from models.saliency.spec.fields import MapBaseline, Plain, draws
from models.saliency.spec.graders import Curve, Localisation, Metric, maps_made
from models.saliency.spec.map import (
    PATH_POINTS,
    PROBE_ROWS,
    VIEW_FILES,
    Cell,
    Explanation,
)
from models.saliency.spec.masks import OcclusionRaw
from models.saliency.spec.methods import NO_BASELINE, Control, Given, rows_of
from models.saliency.spec.net import known_size

MOST_ROWS = 10**9
MOST_GRADED = 1000  # images, whose maps are kept in memory for their comparison


class _EvaluationSpec(Explanation):
    """Fields of the kinds that grade maps."""

    graders: list[Metric] = Field(
        default=[Curve(id="deletion"), Curve(id="insertion")],
        min_length=1,
        max_length=32,
        description="Graders of the maps",
    )
    given: list[Given] = Field(
        default=[], max_length=16, description="Maps of other jobs, graded beside those of methods"
    )
    max_rows: Int = Field(
        default=1_000_000,
        ge=1,
        le=MOST_ROWS,
        description="Refuse a job that needs more rows through the net",
    )

    @model_validator(mode="after")
    def _gradable(self) -> "_EvaluationSpec":
        for index, method in enumerate(self.methods):
            if isinstance(method, OcclusionRaw):
                raise ValueError(  # noqa: TRY004  # pydantic's way to refuse
                    f"methods.{index}: occlusion_raw gives a value a window, not a pixel; "
                    "use occlusion"
                )
        if len(self.each_image) > MOST_GRADED:
            raise ValueError(
                f"images.count is {len(self.each_image):,}; at most {MOST_GRADED:,} images are "
                "graded at once, use a smaller range, or saliency.map for maps alone"
            )
        self._check_given()
        if (size := known_size(self.model)) is not None:
            self.check_rows(*size)
        return self

    def _check_given(self) -> None:
        names = [part.name for part in self.given]
        if len(set(names)) < len(names):
            raise ValueError(f"given has the names {', '.join(names)}; give each only once")
        for index, part in enumerate(self.given):
            if len(part.maps) != len(self.each_image):
                raise ValueError(
                    f"given.{index}.maps has {len(part.maps)} maps for {len(self.each_image)} "
                    "images; give one for each image, in their order"
                )
        recomputed = [metric.id for metric in self.graders if maps_made(metric)]
        if self.given and recomputed:
            raise ValueError(
                f"graders: {', '.join(recomputed)} compute further maps, which is impossible "
                "for given maps; leave them out, or grade the given maps in a separate job"
            )
        if self.given and self.classes() > 1:
            raise ValueError("given: a map is of one class; use a target of one class")

    def every_baseline(self) -> Iterator[tuple[str, MapBaseline]]:
        """The baselines of the maps, then those of the graders."""
        yield from super().every_baseline()
        for index, metric in enumerate(self.graders):
            if (part := getattr(metric, "baseline", None)) is not None:
                yield f"graders.{index}.baseline", part

    def needs(self) -> Iterator[Need]:
        """Also maps of other jobs, and regions of images."""
        yield from super().needs()
        for index, metric in enumerate(self.graders):
            if isinstance(metric, Localisation) and metric.regions is not None:
                forms: dict[Form, tuple[Bound, ...]] = {"regions of images": (Bound("regions", 1),)}
                yield DatasetNeed(f"/graders/{index}/regions", forms)
        for index, part in enumerate(self.given):
            for image, _ in enumerate(part.maps):
                pointer = f"/given/{index}/maps/{image}"
                yield ArtifactNeed(pointer, ("saliency_map",), names=("*.npy",))

    def cells(self) -> Iterator[Cell]:
        """The cells of the methods, then the given maps."""
        yield from super().cells()
        for part in self.given:
            yield Cell(part, part.id, Plain(id="zero"), NO_BASELINE)

    def seeds_of(self, cell: Cell) -> list[int]:
        """Seeds of the maps of a method and baseline; a map for each."""
        return [self.seed]

    def rows(self, height: int, width: int) -> int:
        """Upper bound of the rows through the net, probes and baseline impact included."""
        classes = self.classes()
        total = 0
        for cell in self.cells():
            of_map = rows_of(cell.method, height, width, classes) * draws(cell.baseline)
            graded = sum(metric.rows() + maps_made(metric) * of_map for metric in self.graders)
            total += len(self.seeds_of(cell)) * (of_map + graded * classes)
        impact = sum(PATH_POINTS * draws(baseline) for baseline in self.baselines)
        return PROBE_ROWS + len(self.each_image) * (1 + impact + total)

    def check_rows(self, height: int, width: int) -> None:
        """Refuse a job of more rows than ``max_rows``.

        Raises:
            ValueError: with the number of rows.
        """
        rows = self.rows(height, width)
        if rows > self.max_rows:
            raise ValueError(
                f"the job needs {rows:,} rows through the net, max_rows allows {self.max_rows:,}; "
                "raise max_rows, or use fewer images, methods, baselines, seeds or points"
            )

    def maps(self) -> int:
        """Number of maps per class; random methods have one for each seed."""
        cells = sum(len(self.seeds_of(cell)) for cell in self.cells())
        return cells * len(self.each_image)


_ARTIFACTS = (
    ArtifactInfo("maps.npz", "table", "All maps with a JSON index under the key 'index'"),
    ArtifactInfo("grades.csv", "table", "A row for each map and grader"),
    ArtifactInfo("curves.csv", "table", "A row for each state of each curve"),
    ArtifactInfo("references.bib", "report", "Sources of the methods, graders and baselines used"),
    *VIEW_FILES,
    ArtifactInfo("*.png", "image", "Pictures"),
    VECTOR,
    FIGURE_DATA,
)
_NUMBERS = "All numbers, rows, warnings, versions"
_METRICS = (
    MetricInfo("value", "1", None, "Grade of a map by a grader, in the order of grades.csv"),
    MetricInfo("map_min", "score", None, "Smallest value of the map"),
    MetricInfo("map_max", "score", None, "Largest value of the map"),
)
_CAT = {
    "model": {"pretrained": "efficientnet_lite0"},
    "images": [{"dataset": "photos", "index": 0}],
    "methods": [
        {"id": "occlusion", "window": 32, "stride": 16},
        {"id": "edge"},
        {"id": "random"},
    ],
    "baselines": [{"id": "black"}, {"id": "blur"}],
    "graders": [{"id": "deletion", "points": 20}, {"id": "insertion", "points": 20}],
}


class SaliencyEvaluate(_EvaluationSpec):
    """Grade saliency maps: curves, region and faithfulness metrics, robustness, localisation."""

    entry: ClassVar[str] = "models.saliency.evaluate:evaluate"
    metrics: ClassVar[tuple[MetricInfo, ...]] = _METRICS
    artifacts: ClassVar[tuple[ArtifactInfo, ...]] = (
        *_ARTIFACTS,
        ArtifactInfo("metrics.json", "report", _NUMBERS),
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "curves": {
            "methods": [{"id": "occlusion"}, {"id": "edge"}, {"id": "random"}],
            "graders": [{"id": "deletion"}, {"id": "insertion"}, {"id": "srg"}],
        },
    }
    example: ClassVar[Mapping[str, Any]] = {"kind": "saliency.evaluate", **_CAT}

    kind: Literal["saliency.evaluate"] = Field(init=False)


class SaliencySweep(_EvaluationSpec):
    """Methods x baselines x hyper-parameters: how far maps, grades and rankings disagree."""

    entry: ClassVar[str] = "models.saliency.sweep:sweep"
    resumable: ClassVar[bool] = True
    metrics: ClassVar[tuple[MetricInfo, ...]] = _METRICS
    artifacts: ClassVar[tuple[ArtifactInfo, ...]] = (
        *_ARTIFACTS,
        ArtifactInfo("sweep.json", "report", _NUMBERS),
        ArtifactInfo("report.html", "report", "Tables and pictures in one file"),
        ArtifactInfo("checkpoints/step-*.safetensors", "checkpoint", "Maps and grades so far"),
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "brunke2020": {
            "methods": [
                {"id": "occlusion", "window": 16, "stride": 8},
                {"id": "occlusion", "window": 32, "stride": 16},
                {"id": "occlusion", "window": 64, "stride": 16},
                {"id": "rise", "masks": 500, "estimator": "slope", "sampling": "balanced"},
                {"id": "rise", "masks": 500, "grid": 14, "estimator": "slope"},
                {"id": "feature_ablation"},
                {"id": "lime", "samples": 300},
                {"id": "random"},
                {"id": "edge"},
            ],
            "baselines": [
                {"id": "black"},
                {"id": "white"},
                {"id": "gray"},
                {"id": "blur"},
                {"id": "gaussian_noise"},
            ],
            "graders": [
                {"id": "deletion", "points": 50},
                {"id": "insertion", "points": 50},
                {"id": "lerf", "points": 50},
                {"id": "road"},
            ],
            "images": [{"dataset": "photos", "index": index} for index in range(4)],
            "seeds": [0, 1, 2],
        },
    }
    example: ClassVar[Mapping[str, Any]] = {
        "kind": "saliency.sweep",
        **_CAT,
        "methods": [*_CAT["methods"], {"id": "occlusion", "window": 64, "stride": 32}],
    }

    kind: Literal["saliency.sweep"] = Field(init=False)
    seeds: list[Int] = Field(
        default=[0],
        min_length=1,
        max_length=20,
        description="Random methods and baselines run once with each; their disagreement is the "
        "noise that effects are compared with",
    )

    control_draws: Int = Field(
        default=10, ge=1, le=1000, description="Maps of the control `random` for each image"
    )
    hypotheses: list[Comparison] | None = Field(
        default=None,
        min_length=1,
        max_length=1000,
        description="What is tested, each corrected for all of them (Holm); null: the baselines "
        "of each method, and every two variants of a method",
    )
    least_score: float | None = Field(
        default=None,
        ge=-1e9,
        le=1e9,
        description="Images whose explained class scores less unperturbed are computed and shown, "
        "but left out of all statistics",
    )

    @classmethod
    def upgrade(cls, stored: dict[str, Any]) -> list[str]:
        """Raise ``max_rows`` of a sweep that had fewer maps; see :meth:`Spec.upgrade`.

        Maps of noise baselines were one, now one a seed, and the control has more draws.
        """
        if "control_draws" in stored or "max_rows" not in stored:
            return []
        before, factor = stored["max_rows"], max(10, len(stored.get("seeds", [0])))
        stored["max_rows"] = min(MOST_ROWS, before * factor)
        stored["control_draws"] = cls.model_fields["control_draws"].default  # marks it as of today
        return [
            f"max_rows: {before:,} is now {stored['max_rows']:,}, since maps of noise baselines "
            "and of the control are drawn for every seed"
        ]

    @model_validator(mode="after")
    def _testable(self) -> "SaliencySweep":
        possible = comparisons_of(self.methods, self.baselines)
        for index, comparison in enumerate(self.hypotheses or ()):
            if comparison not in possible:
                allowed = "; ".join(f"{one.factor} of {', '.join(one.methods)}" for one in possible)
                raise ValueError(
                    f"hypotheses.{index}: this sweep cannot compare the {comparison.factor} of "
                    f"{', '.join(comparison.methods)}; it can compare: {allowed or 'nothing'}"
                )
        return self

    def comparisons(self) -> list[Comparison]:
        """The hypotheses, given or all possible ones."""
        if self.hypotheses is not None:
            return self.hypotheses
        return comparisons_of(self.methods, self.baselines)

    def random_cells(self) -> set[tuple[str, str]]:
        """Labels of the methods and baselines whose maps depend on the seed."""
        return {
            (cell.method_label, cell.baseline_label)
            for cell in self.cells()
            if is_random(cell.method, cell.baseline)
        }

    def one_seed(self, comparison: Comparison) -> bool:
        """Whether the noise of compared maps is unknown because each has a single seed."""
        random = {method for method, _ in self.random_cells()}
        return len(self.seeds) < 2 and not random.isdisjoint(comparison.methods)

    def seeds_of(self, cell: Cell) -> list[int]:
        """The seeds of a random map, as many as ``control_draws`` for the control; else one."""
        if not is_random(cell.method, cell.baseline):
            return [self.seed]
        if isinstance(cell.method, Control):
            return [self.seed + draw for draw in range(self.control_draws)]
        return [self.seed + seed for seed in self.seeds]
