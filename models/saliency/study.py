"""Computes the maps of a spec and grades them: the work that evaluate and sweep share."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from models.core.errors import SpecError
from models.core.run import Run
from models.saliency.case_builder import CaseBuilder, image_name, image_seed
from models.saliency.graders.grade import Grade, GradedMap
from models.saliency.graders.registry import grade, grader_labels
from models.saliency.methods.baselines import (
    baseline_impact,
    image_of,
    impact_warnings,
    replacements_of,
)
from models.saliency.methods.case import Case
from models.saliency.methods.registry import compute_map
from models.saliency.net.images import read_map
from models.saliency.net.known import region_masks
from models.saliency.net.run import arithmetic, precision_gap
from models.saliency.net.scores import check_finite
from models.saliency.results import EvaluationResults, MapKey
from models.saliency.spec.evaluate import SaliencyEvaluate, SaliencySweep
from models.saliency.spec.fields import labels
from models.saliency.spec.graders import Localisation
from models.saliency.spec.map import Cell
from models.saliency.spec.methods import Given


class Study:
    """The maps and grades of a spec.

    Raises:
        SpecError: if the spec does not fit the net or the images, or needs too many rows.
        DataError: if an image or a given map cannot be used.
    """

    def __init__(self, spec: SaliencyEvaluate | SaliencySweep, run: Run) -> None:
        self.spec, self._run = spec, run
        self.cases = CaseBuilder(spec, run)
        size = self.cases.subject.size
        self.given = {
            (part.name, position): read_map(run.input(ref), size, f"given.{number}.maps.{position}")
            for number, part in enumerate(spec.given)
            for position, ref in enumerate(part.maps)
        }
        self.regions = {
            (part.regions.dataset, part.category): region_masks(
                part.regions,
                part.category,
                f"graders.{number}.regions",
                spec,
                run,
                self.cases.images,
                self.cases.subject,
            )
            for number, part in enumerate(spec.graders)
            if isinstance(part, Localisation) and part.regions is not None
        }
        try:
            spec.check_rows(*size)
        except ValueError as error:
            raise SpecError(str(error)) from error

    @property
    def device(self) -> str:
        """Where the net runs."""
        return self._run.device

    def run(self, results: EvaluationResults) -> None:
        """Add the maps that ``results`` lacks, in the order of the spec.

        After each map ``results`` is consistent and can be saved.

        Raises:
            SpecError: if the net's output cannot be explained.
            DataError: if the net gives NaN or infinity.
            StoppedError: between two batches, if a stop was requested.
        """
        self.cases.rows.done = results.rows
        with arithmetic(self.spec):
            for position in range(len(self.spec.each_image)):
                self.run_image(position, results)

    def run_image(self, position: int, results: EvaluationResults) -> None:
        """Add the maps and grades of one image that ``results`` lacks."""
        name = image_name(position, self.spec.each_image[position])
        wanted = [(cell, seed) for cell in self.spec.cells() for seed in self.spec.seeds_of(cell)]
        done = sum(key.image == name for key in results.maps)
        if name in results.images and done == len(wanted) * len(results.images[name]["targets"]):
            return
        case, _ = self.cases.build(position)
        if name not in results.images:
            results.images[name] = self._describe(name, case, results)
            results.rows = self.cases.rows.done
        for cell, seed in wanted:
            keys = [
                MapKey(name, cell.method_label, cell.baseline_label, seed, target)
                for target in case.targets.tolist()
            ]
            if keys[0] not in results.maps:
                drawn = case.with_seed(image_seed(seed, position))
                self._run_cell(cell, keys, drawn, results, position)

    def _describe(self, name: str, case: Case, results: EvaluationResults) -> dict[str, Any]:
        """Targets with their scores, and the impact of each baseline alone (README, eq. 3)."""
        classes, space = self.cases.subject.classes, self.cases.subject.space
        entry: dict[str, Any] = {
            "targets": [
                {"class": target, "name": classes[target], "score": score}
                for target, score in zip(case.targets.tolist(), case.full.tolist(), strict=True)
            ],
            "baselines": {},
        }
        if (gap := precision_gap(case.scorer, self.spec, case.x[None])) is not None:
            entry["precision_difference"] = gap
        for part, label in zip(self.spec.baselines, labels(self.spec.baselines), strict=True):
            images = [image_of(b) for b in replacements_of(part, case.x, space, case.seed)]
            numbers = baseline_impact(
                case.scorer, case.x, images, case.targets, case.chunk, classes
            )
            entry["baselines"][label] = numbers
            for code, message in impact_warnings(label, numbers):
                results.warnings.append(f"{name}: {message}")
                self._run.warn(code, f"{name}: {message}")
        return entry

    def _run_cell(
        self,
        cell: Cell,
        keys: list[MapKey],
        case: Case,
        results: EvaluationResults,
        position: int,
    ) -> None:
        """Compute and grade one map for every class; keep them only once all are graded."""
        space = self.cases.subject.space
        drawn = replacements_of(cell.baseline, case.x, space, case.seed)

        def recompute(other: Case) -> Float[Tensor, "k h w"]:
            if isinstance(cell.method, Given):
                return self.given[cell.method.name, position].to(case.x.device)[None]
            return torch.stack([compute_map(cell.method, other, b) for b in drawn]).mean(0)

        regions = {name: masks[position] for name, masks in self.regions.items()}
        maps = recompute(case)
        check_finite(maps.cpu().numpy(), keys[0].name)
        grades = [
            [
                grade(part, GradedMap(maps[k], case, k, space, recompute, regions))
                for part in self.spec.graders
            ]
            for k in range(len(keys))
        ]
        for k, (key, values, of_map) in enumerate(zip(keys, maps, grades, strict=True)):
            if not values.any():
                message = f"{key.name} {case.reason_for_zeros(k)}"
                results.warnings.append(message)
                self._run.warn("map_is_zero", message)
            self._keep(key, values.float().cpu().numpy(), of_map, results)
        results.rows = self.cases.rows.done

    def _keep(
        self, key: MapKey, values: np.ndarray, grades: list[Grade], results: EvaluationResults
    ) -> None:
        """Add one map with its grades and log their numbers."""
        results.maps[key], results.grades[key] = values, {}
        for name, graded in zip(grader_labels(self.spec.graders), grades, strict=True):
            results.grades[key][name] = graded.value
            for title, points in graded.curves.items():
                results.curves[key, f"{name}{title}"] = points
            numbers = {"map_min": float(values.min()), "map_max": float(values.max())}
            if graded.value is not None:
                numbers["value"] = graded.value
            self._run.log(len(results.maps), **numbers)
