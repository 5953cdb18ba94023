"""Runs ``saliency.map`` over a range of images: maps go to a file a chunk as they are made."""

import csv
import math
import time
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from models.core import checkpoint, device
from models.core.run import Run, StoppedError
from models.saliency import references
from models.saliency.case_builder import CaseBuilder, image_name
from models.saliency.figures.maps import Panel
from models.saliency.map_pictures import DrawnMaps, describe_targets, draw_maps, panel_title
from models.saliency.methods.baselines import (
    Replacement,
    baseline_impact,
    image_of,
    impact_warnings,
    replacements_of,
)
from models.saliency.methods.case import Case
from models.saliency.methods.registry import compute_map
from models.saliency.net.images import open_part
from models.saliency.net.run import arithmetic
from models.saliency.net.scores import check_finite
from models.saliency.range_progress import RangeProgress
from models.saliency.spec.fields import labels
from models.saliency.spec.map import SaliencyMap
from models.saliency.zarr_store import ZarrArray

STORE, ARRAY = "maps.zarr", "maps"
AXES = ("image", "map", "target", "row", "column")
CHUNK_BYTES = 32 * 2**20  # of maps, before they are compressed
DRAWN = 8  # images whose maps are drawn


def map_range(spec: SaliencyMap, run: Run) -> None:
    """Explain every image of a range; memory does not grow with their number but for a table.

    A later run of the same job goes on behind the last checkpoint and leaves the same bytes.

    Raises:
        SpecError: if the spec does not fit the net or the images, or the net cannot be read.
        DataError: if an image cannot be used.
        StoppedError: between two batches, if a stop was requested.
    """
    explainer = RangeExplainer(spec, run)
    with arithmetic(spec):
        try:
            explainer.explain_all()
        except StoppedError:
            if run.stop_wants_checkpoint:
                explainer.done.save(run)
            raise
    explainer.write_table()
    references.leave(spec, run)
    explainer.write_report()


class RangeExplainer:
    """Explains the images one by one and keeps a table of their scores.

    Attributes:
        done: what this and earlier runs have done.
    """

    def __init__(self, spec: SaliencyMap, run: Run) -> None:
        self.spec, self.run = spec, run
        self.cases = CaseBuilder(spec, run)
        self.done = RangeProgress.restored(run)
        self.cases.warn = self._warn = self.done.count_warnings(run.warn)
        self.cases.rows.done = self.done.rows
        self.cells = list(spec.cells())
        self._methods = dict(zip(labels(spec.methods), spec.methods, strict=True))
        self._store: ZarrArray | None = None
        self._began_at, self._maps = time.monotonic(), 0

    def explain_all(self) -> None:
        """Compute the maps of every image that is not done."""
        count = len(self.spec.each_image)
        for position in range(len(self.done.targets), count):
            case, outputs = self.cases.build(position)
            numbers, maps = self._explain(position, case, outputs)
            self.done.targets.append(case.targets.cpu().numpy())
            self.done.numbers.append(numbers)
            self.done.pending.append(maps)
            self.done.rows = self.cases.rows.done
            self._maps += maps.shape[0] * maps.shape[1]
            full = len(self.done.pending) == self._chunked(maps.shape).chunk
            if full or position + 1 == count:
                self._write_chunk(position)
            elif self.run.checkpoint_due():
                self.done.save(self.run)

    def _explain(
        self, position: int, case: Case, outputs: Float[Tensor, "classes"]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Numbers [k, columns] of an image, and its maps [cells, k, h, w]."""
        space = self.cases.subject.space
        drawn = {
            label: replacements_of(part, case.x, space, case.seed)
            for part, label in zip(self.spec.baselines, labels(self.spec.baselines), strict=True)
        }
        numbers = self._numbers(f"images.{position}", case, outputs, drawn)
        maps = []
        for cell in self.cells:
            used = drawn.get(cell.baseline_label) or replacements_of(
                cell.baseline, case.x, space, case.seed
            )
            method = self._methods[cell.method_label]
            values = torch.stack([compute_map(method, case, b) for b in used]).mean(0)
            maps.append(values.float().cpu().numpy())
            name = f"images.{position}: {cell.method_label}-{cell.baseline_label}"
            check_finite(maps[-1], name)
            for k in np.flatnonzero(~maps[-1].any((1, 2))):
                self._warn("map_is_zero", f"{name} {case.reason_for_zeros(int(k))}")
        if position < DRAWN and "png" in self.spec.outputs:
            self._draw(position, case, outputs, maps)
        return numbers, np.stack(maps)

    def _numbers(
        self,
        field: str,
        case: Case,
        outputs: Float[Tensor, "classes"],
        drawn: dict[str, list[Replacement]],
    ) -> np.ndarray:
        """The numbers of :meth:`columns` for each target."""
        columns = [case.full.cpu().numpy()]
        probabilities = case.scorer.probabilities(outputs[None])
        if probabilities is not None:
            columns.append(probabilities[0, case.targets].cpu().numpy())
        for label, images in drawn.items():
            impact = baseline_impact(
                case.scorer,
                case.x,
                [image_of(b) for b in images],
                case.targets,
                case.chunk,
                self.cases.subject.classes,
            )
            for code, message in impact_warnings(label, impact):
                self._warn(code, f"{field}: {message}")
            columns.append(np.array(impact["score"]))
            if impact["max_probability"] is not None:
                columns.append(np.full(len(case.targets), impact["max_probability"]))
        return np.stack(columns, axis=1)

    def columns(self) -> list[str]:
        """Names of the numbers of an image and target."""
        probable = self.cases.outputs != "regression"
        names = ["score", "probability"] if probable else ["score"]
        for label in labels(self.spec.baselines):
            names.append(f"score_of_{label}")
            if probable:
                names.append(f"largest_probability_of_{label}")
        return names

    def _chunked(self, shape: tuple[int, ...]) -> ZarrArray:
        """The array of all maps, described at its first use; its chunks hold whole images."""
        if self._store is None:
            count = len(self.spec.each_image)
            chunk = min(count, max(1, CHUNK_BYTES // (4 * math.prod(shape))))
            self._store = ZarrArray(self.run.dir, STORE, ARRAY, (count, *shape), chunk)
            for name in self._store.describe(AXES, self._attributes()):
                self.run.artifact(name, role="chunk")
        return self._store

    def _attributes(self) -> dict[str, Any]:
        return {
            "axes": "image: position in the range; map: as in `maps`; target: as in images.csv; "
            "row, column: of the net's input",
            "maps": [
                {"method": cell.method_label, "baseline": cell.baseline_label}
                for cell in self.cells
            ],
            "images": self.spec.model_dump(exclude_none=True)["images"],
        }

    def _write_chunk(self, position: int) -> None:
        """Hand over the chunk that ends with an image, then say that it is done."""
        maps = np.stack(self.done.pending)
        store = self._chunked(maps.shape[1:])
        self.run.artifact(store.write(position // store.chunk, maps), role="chunk")
        self.done.pending.clear()
        self.done.save(self.run)
        self.run.log(
            position + 1,
            maps_per_s=self.maps_per_s(),
            map_min=float(maps.min()),
            map_max=float(maps.max()),
        )

    def maps_per_s(self) -> float:
        """Maps that this run has computed, per second since it began."""
        return self._maps / max(time.monotonic() - self._began_at, 1e-9)

    def _draw(
        self, position: int, case: Case, outputs: Float[Tensor, "classes"], maps: list[np.ndarray]
    ) -> None:
        image = image_name(position, self.spec.each_image[position])
        targets = describe_targets(self.cases, case, outputs)
        for label in labels(self.spec.methods):
            of_method = [
                (panel_title(cell.baseline_label), values)
                for cell, values in zip(self.cells, maps, strict=True)
                if cell.method_label == label
            ]
            for k, target in enumerate(targets):
                panels = [Panel(title, values[k]) for title, values in of_method]
                shown = DrawnMaps(image, label, target, panels)
                draw_maps(self.run, self.spec, self.cases, case, shown)

    def write_table(self) -> None:
        """Leave ``images.csv``, a row for each image and class; equal specs give equal bytes."""
        labelled, classes = self._labels(), self.cases.subject.classes
        with (self.run.dir / "images.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["position", "index", "label", "class", "name", *self.columns()])
            pairs = zip(self.done.targets, self.done.numbers, strict=True)
            for position, (targets, numbers) in enumerate(pairs):
                index = self.spec.each_image[position].index
                label = labelled[index] if len(labelled) else ""
                for target, row in zip(targets.tolist(), numbers.tolist(), strict=True):
                    table.writerow([position, index, label, target, classes[target], *row])
        self.run.artifact("images.csv", role="table")

    def _labels(self) -> Int64[np.ndarray, "_n"]:
        """The labels of the part that the range is of; empty for photographs."""
        with open_part(self.spec.each_image[0], self.run, "images") as (part, _):
            return part.labels

    def write_report(self) -> None:
        """Write all numbers of the run but times, so that equal specs give equal bytes."""
        scorer, done = self.cases.scorer, self.done
        means = np.stack(done.numbers).mean((0, 1)).tolist()
        maps = len(done.targets) * len(self.cells) * len(done.targets[0])
        report = {
            "kind": self.spec.kind,
            "model": self.spec.model.model_dump(exclude_none=True),
            "net_sha256": checkpoint.digest_of(self.cases.subject.net),
            "score": self.spec.score,
            "outputs": self.cases.outputs,
            "seed": self.spec.seed,
            "rows": done.rows,
            "batch": self.cases.chunk,
            "engine": "plain" if scorer.plan is None else "plan",
            "precision": self.spec.precision,
            "device": self.run.device,
            "versions": device.versions(self.run.device) | {"numpy": np.__version__},
            **self._attributes(),
            "count": len(done.targets),
            "number_of_maps": maps,
            "means": dict(zip(self.columns(), means, strict=True)),
            "warnings": [
                {"code": code, "times": times, "first": first}
                for code, (times, first) in done.warned.items()
            ],
        }
        self.run.report("report.json", report)
        self.run.result(
            images=len(done.targets),
            maps=maps,
            rows=done.rows,
            maps_per_s=self.maps_per_s(),
            warnings=sum(times for times, _ in done.warned.values()),
        )
