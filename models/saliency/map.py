"""Runs ``saliency.map``: all maps of every image, by method, baseline and class."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from models.core.run import Run, StoppedError
from models.saliency import view
from models.saliency.case_builder import CaseBuilder, image_name
from models.saliency.figures.maps import Panel
from models.saliency.map_pictures import DrawnMaps, describe_targets, draw_maps, panel_title
from models.saliency.map_range import map_range
from models.saliency.methods.baselines import (
    Replacement,
    baseline_impact,
    image_of,
    impact_warnings,
    replacements_of,
)
from models.saliency.methods.case import Case
from models.saliency.methods.registry import compute_map
from models.saliency.net.run import arithmetic, precision_gap
from models.saliency.net.scores import check_finite
from models.saliency.spec.fields import Plain, labels
from models.saliency.spec.image_range import ImageRange
from models.saliency.spec.map import SaliencyMap
from models.saliency.spec.methods import NO_BASELINE, Method, uses_baseline


def map_images(spec: SaliencyMap, run: Run) -> None:
    """Explain every image of the spec; those of a range as :func:`map_range` does.

    Reports each map as an artifact as soon as it is computed, so that a cancelled job keeps its
    finished maps; the pictures follow per method, the archive and the report at the end.

    Raises:
        SpecError: if the spec does not fit the net or the images, or the net cannot be read.
        DataError: if an image cannot be used.
        StoppedError: between two batches, if a stop was requested.
    """
    if isinstance(spec.images, ImageRange):
        map_range(spec, run)
        return
    explainer = Explainer(spec, run)
    with arithmetic(spec):
        try:
            for position in range(len(spec.each_image)):
                explainer.explain(position)
        except StoppedError:
            explainer.write_view()
            raise
    explainer.write_view()
    if "npz" in spec.outputs:
        write_archive(run.dir / "maps.npz", run.dir / "saliency", explainer.maps)
        run.artifact("maps.npz", role="table")
    explainer.write_report()


class Explainer:
    """Explains the images one by one; keeps in memory what the report needs, but no map."""

    def __init__(self, spec: SaliencyMap, run: Run) -> None:
        self.spec, self.run = spec, run
        self.cases = CaseBuilder(spec, run)
        self.maps: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        self.warnings: list[str] = []

    def explain(self, position: int) -> None:
        """Compute all maps of one image."""
        ref = self.spec.each_image[position]
        name = image_name(position, ref)
        case, outputs = self.cases.build(position)
        entry = {"image": name, **ref.model_dump(exclude_none=True)}
        entry |= self._describe(case, outputs)
        self.images.append(entry)
        space = self.cases.subject.space
        names = labels(self.spec.baselines)
        replacements = {
            label: replacements_of(part, case.x, space, case.seed)
            for part, label in zip(self.spec.baselines, names, strict=True)
        }
        images = torch.stack([case.x, *(image_of(drawn[0]) for drawn in replacements.values())])
        if (gap := precision_gap(case.scorer, self.spec, images)) is not None:
            entry["precision_difference"] = gap
        entry["baselines"] = {
            label: self._impact(name, label, case, drawn) for label, drawn in replacements.items()
        }
        (self.run.dir / "saliency" / name).mkdir(parents=True, exist_ok=True)
        zero = {NO_BASELINE: replacements_of(Plain(id="zero"), case.x, space, 0)}
        for method, label in zip(self.spec.methods, labels(self.spec.methods), strict=True):
            self._compare(
                method, label, case, replacements if uses_baseline(method) else zero, entry
            )

    def _describe(self, case: Case, outputs: Float[Tensor, "classes"]) -> dict[str, Any]:
        """The net's prediction for the unperturbed image."""
        return {
            "top_class": int(outputs.argmax()),
            "targets": describe_targets(self.cases, case, outputs),
        }

    def _impact(
        self, image: str, label: str, case: Case, drawn: list[Replacement]
    ) -> dict[str, Any]:
        """Impact of a baseline on its own (README, eq. 3); warns where it is not neutral."""
        images = [image_of(replacement) for replacement in drawn]
        names = self.cases.subject.classes
        numbers = baseline_impact(case.scorer, case.x, images, case.targets, case.chunk, names)
        for code, message in impact_warnings(label, numbers):
            self._warn(code, f"{image}: {message}")
        return numbers

    def _warn(self, code: str, message: str) -> None:
        self.warnings.append(message)
        self.run.warn(code, message)

    def _compare(
        self,
        method: Method,
        label: str,
        case: Case,
        replacements: dict[str, list[Replacement]],
        entry: dict[str, Any],
    ) -> None:
        """Compute the maps of one method with every baseline, then draw them, class by class."""
        panels: list[list[Panel]] = [[] for _ in entry["targets"]]
        for baseline_label, drawn in replacements.items():
            case.reported.clear()
            maps = torch.stack([compute_map(method, case, b) for b in drawn])
            values = maps.mean(0).float().cpu().numpy()  # [k, rows, columns]
            error = maps.std(0).mean((1, 2)) / len(drawn) ** 0.5 if len(drawn) > 1 else None
            for k, target in enumerate(entry["targets"]):
                described = {"method": label, "baseline": baseline_label, "class": target["class"]}
                described |= case.reported
                if error is not None:
                    described["standard_error"] = error[k].item()
                self._keep(entry, k, described, values[k], case)
                panels[k].append(Panel(panel_title(baseline_label), values[k]))
        if "png" in self.spec.outputs:
            for target, row in zip(entry["targets"], panels, strict=True):
                shown = DrawnMaps(entry["image"], label, target, row)
                draw_maps(self.run, self.spec, self.cases, case, shown)

    def _keep(
        self,
        entry: dict[str, Any],
        k: int,
        described: dict[str, Any],
        values: np.ndarray,
        case: Case,
    ) -> None:
        """Write one map, report it as an artifact and log its numbers."""
        stem = f"{described['method']}-{described['baseline']}-class{described['class']}"
        name = f"saliency/{entry['image']}/{stem}.npy"
        check_finite(values, name)
        if not values.any():
            self._warn("map_is_zero", f"{name} {case.reason_for_zeros(k)}")
        np.save(self.run.dir / name, values)
        low, high = float(values.min()), float(values.max())
        described = {"image": entry["image"], **described, "shape": list(values.shape)}
        self.run.artifact(name, role="saliency_map", **described)
        self.maps.append({"artifact": name, **described, "min": low, "max": high})
        numbers = {"score": entry["targets"][k]["score"], "map_min": low, "map_max": high}
        if (impact := entry["baselines"].get(described["baseline"])) is not None:
            numbers["baseline_score"] = impact["score"][k]
            if impact["neutrality"] is not None:
                numbers["neutrality"] = impact["neutrality"]
        self.run.log(len(self.maps), **numbers)

    def write_view(self) -> None:
        """What the page shows of the maps that are finished."""
        view.write(self.run, self.cases, view.of_files(self.run, self.images, self.maps))

    def write_report(self) -> None:
        """Write all numbers of the run but times, so that equal specs give equal bytes."""
        scorer, rows = self.cases.scorer, self.cases.rows.done
        numbers = {
            "kind": self.spec.kind,
            "model": self.spec.model.model_dump(exclude_none=True),
            "score": self.spec.score,
            "outputs": self.cases.outputs,
            "seed": self.spec.seed,
            "rows": rows,
            "batch": self.cases.chunk,
            "engine": "plain" if scorer.plan is None else "plan",
            "dtype": str(scorer.dtype).removeprefix("torch."),
            "precision": self.spec.precision,
            "device": self.run.device,
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
            "warnings": self.warnings,
            "images": self.images,
            "maps": self.maps,
        }
        self.run.report("report.json", numbers)
        self.run.result(
            images=len(self.images), maps=len(self.maps), rows=rows, warnings=len(self.warnings)
        )


def write_archive(path: Path, folder: Path, maps: list[dict[str, Any]]) -> None:
    """Write all maps as one npz, map by map, with a JSON index as a string array.

    ``json.loads(str(np.load(path)["index"]))`` gives the key and the description of each map.
    """
    index = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in maps:
            file = folder.parent / entry["artifact"]
            key = str(file.relative_to(folder).with_suffix(""))
            _add(archive, key, file.read_bytes())
            index.append({"key": key, **entry})
        buffer = io.BytesIO()
        np.save(buffer, np.array(json.dumps(index, allow_nan=False)))
        _add(archive, "index", buffer.getvalue())


def _add(archive: zipfile.ZipFile, key: str, content: bytes) -> None:
    # A fixed date, so that equal maps give equal bytes.
    entry = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
    archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
