"""Carries out ``saliency.map``: every image, method, baseline and class; maps as they come."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from models.core.run import Run
from models.saliency.figures.maps import Panel, draw, style
from models.saliency.methods.baselines import NEUTRAL_FACTOR, Replacement, alone, baseline, impact
from models.saliency.methods.case import Case
from models.saliency.methods.registry import make
from models.saliency.net import load
from models.saliency.net.images import choose_targets, load_images, load_others, prepare
from models.saliency.net.run import Rows, arithmetic, chunk_size, open_net, precision_gap
from models.saliency.net.scores import Scorer, check_finite, dtype_of, probe
from models.saliency.spec.map import SaliencyMap
from models.saliency.spec.methods import NO_BASELINE, Method, uses_baseline
from models.saliency.spec.parts import ImageRef, MapBaseline, Plain, labels


def map_images(spec: SaliencyMap, run: Run) -> None:
    """Explain every image of the spec.

    Leaves each map as an artifact as soon as it is made, so that a cancelled job keeps those it
    finished; then the pictures of an image, the archive and the report.

    Raises:
        SpecError: if the spec does not fit the net or the images, or the net cannot be read.
        DataError: if an image cannot be used.
        StoppedError: between two batches, if a stop was requested.
    """
    subject = load.load_subject(spec, run)
    images = load_images(spec, run)
    load_others(spec, run, subject)
    rows = Rows(run, spec.rows(*subject.size))
    with arithmetic(spec):
        explainer = Explainer(spec, run, subject, open_net(spec, subject, rows))
        for position, image in enumerate(images):
            explainer.explain(position, image)
    if "npz" in spec.outputs:
        write_archive(run.dir / "maps.npz", run.dir / "saliency", explainer.maps)
        run.artifact("maps.npz", role="table")
    explainer.write_report(rows.done)


class Explainer:
    """Explains one image after the other and keeps what the report needs (no map)."""

    def __init__(self, spec: SaliencyMap, run: Run, subject: load.Subject, scorer: Scorer) -> None:
        self.spec, self.run, self.subject, self.scorer = spec, run, subject, scorer
        self.chunk = chunk_size(spec, scorer, subject.size, run.device)
        self.maps: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        self.warnings: list[str] = []

    def explain(self, position: int, image: np.ndarray) -> None:
        """All maps of one image; the first image also serves to probe the net."""
        ref = self.spec.images[position]
        name = image_name(position, ref)
        pixels = prepare(image, self.subject, f"images.{position}").to(self.run.device)
        x = self.subject.space.normalise(pixels).to(dtype_of(self.subject.net))
        if position == 0:
            probe(self.scorer, x)
        outputs = self.scorer.outputs(x[None])
        targets = choose_targets(self.spec.target, outputs[0])
        index = torch.tensor(targets, device=x.device)
        full = self.scorer.read(outputs)[0, index]
        case = Case(x, self.scorer, index, full, self.spec.seed, self.chunk, pixels)
        entry = {"image": name, **ref.model_dump(exclude_none=True)}
        entry |= self._describe(self.scorer.probabilities(outputs)[0], targets, full)
        self.images.append(entry)
        replacements = {
            label: baseline(part, x, self.subject.space, self.spec.seed)
            for part, label in self._baselines()
        }
        shown = torch.stack([x, *(alone(found[0]) for found in replacements.values())])
        if (gap := precision_gap(self.scorer, self.spec, shown)) is not None:
            entry["precision_difference"] = gap
        entry["baselines"] = {
            label: self._impact(name, label, case, index, found)
            for label, found in replacements.items()
        }
        (self.run.dir / "saliency" / name).mkdir(parents=True, exist_ok=True)
        for method, label in zip(self.spec.methods, labels(self.spec.methods), strict=True):
            neutral = {NO_BASELINE: baseline(Plain(id="zero"), x, self.subject.space, 0)}
            used = replacements if uses_baseline(method) else neutral
            self._compare(method, label, case, used, entry, pixels)

    def _describe(
        self, probability: Float[Tensor, "classes"], targets: list[int], full: Float[Tensor, "k"]
    ) -> dict[str, Any]:
        """What the net makes of the unperturbed image."""
        return {
            "top_class": int(probability.argmax()),
            "targets": [
                {
                    "class": target,
                    "name": self.subject.classes[target],
                    "score": score,
                    "probability": probability[target].item(),
                }
                for target, score in zip(targets, full.tolist(), strict=True)
            ],
        }

    def _baselines(self) -> list[tuple[MapBaseline, str]]:
        return list(zip(self.spec.baselines, labels(self.spec.baselines), strict=True))

    def _impact(
        self, image: str, label: str, case: Case, targets: Tensor, found: list[Replacement]
    ) -> dict[str, Any]:
        """Baseline impact of section 4.1, with a warning where a baseline speaks for a class."""
        numbers = impact(self.scorer, case.x, [alone(b) for b in found], targets, self.chunk)
        limit = NEUTRAL_FACTOR / len(self.subject.classes)
        for target, p in zip(targets.tolist(), numbers["probability"], strict=True):
            if p > limit:
                self._warn(
                    "baseline_not_neutral",
                    f"{image}: baseline {label} alone has probability {p:.3g} for class "
                    f"{self.subject.classes[target]!r}, over {NEUTRAL_FACTOR} times chance",
                )
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
        pixels: Float[Tensor, "c h w"],
    ) -> None:
        """The maps of one method with every baseline; then, a class each, their picture."""
        panels: list[list[Panel]] = [[] for _ in entry["targets"]]
        for baseline_label, found in replacements.items():
            case.told.clear()
            drawn = torch.stack([make(method, case, b) for b in found])
            values = drawn.mean(0).float().cpu().numpy()  # [k, rows, columns]
            error = drawn.std(0).mean((1, 2)) / len(found) ** 0.5 if len(found) > 1 else None
            for k, target in enumerate(entry["targets"]):
                described = {"method": label, "baseline": baseline_label, "class": target["class"]}
                described |= case.told
                if error is not None:
                    described["standard_error"] = error[k].item()
                self._keep(entry, k, described, values[k])
                title = "no baseline" if baseline_label == NO_BASELINE else baseline_label
                panels[k].append(Panel(title, values[k]))
        if "png" in self.spec.outputs:
            for target, row in zip(entry["targets"], panels, strict=True):
                self.run.check_stop()  # a picture takes as long as many rows
                self._draw(method, label, entry["image"], target, row, pixels)

    def _keep(
        self, entry: dict[str, Any], k: int, described: dict[str, Any], values: np.ndarray
    ) -> None:
        """Write one map, hand it over and report its numbers."""
        stem = f"{described['method']}-{described['baseline']}-class{described['class']}"
        name = f"saliency/{entry['image']}/{stem}.npy"
        check_finite(values, name)
        np.save(self.run.dir / name, values)
        low, high = float(values.min()), float(values.max())
        described = {"image": entry["image"], **described, "shape": list(values.shape)}
        self.run.artifact(name, role="saliency_map", **described)
        self.maps.append({"artifact": name, **described, "min": low, "max": high})
        numbers = {"score": entry["targets"][k]["score"], "map_min": low, "map_max": high}
        if (alone := entry["baselines"].get(described["baseline"])) is not None:
            numbers["baseline_score"] = alone["score"][k]
            numbers["neutrality"] = alone["neutrality"]
        self.run.log(len(self.maps), **numbers)

    def _draw(
        self,
        method: Method,
        label: str,
        image: str,
        target: dict[str, Any],
        panels: list[Panel],
        pixels: Float[Tensor, "c h w"],
    ) -> None:
        name = f"saliency/{image}/{label}-class{target['class']}.png"
        draw(
            self.run.dir / name,
            pixels.permute(1, 2, 0).cpu().numpy(),
            panels,
            f"{target['name']}, p = {target['probability']:.2f}",
            style(method, self.spec.score),
            self.spec.overlay,
        )
        self.run.artifact(name, role="image", image=image, method=label)

    def write_report(self, rows: int) -> None:
        """All numbers of the run, without times: the same spec leaves the same bytes."""
        numbers = {
            "kind": self.spec.kind,
            "model": self.spec.model.model_dump(exclude_none=True),
            "score": self.spec.score,
            "seed": self.spec.seed,
            "rows": rows,
            "batch": self.chunk,
            "engine": "plain" if self.scorer.plan is None else "plan",
            "dtype": str(self.scorer.dtype).removeprefix("torch."),
            "precision": self.spec.precision,
            "device": self.run.device,
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
            "warnings": self.warnings,
            "images": self.images,
            "maps": self.maps,
        }
        (self.run.dir / "report.json").write_text(json.dumps(numbers, indent=1, allow_nan=False))
        self.run.artifact("report.json", role="report")
        self.run.result(
            images=len(self.images), maps=len(self.maps), rows=rows, warnings=len(self.warnings)
        )


def image_name(position: int, ref: ImageRef) -> str:
    """Folder of an image's maps: its place in the spec, its dataset and its index there."""
    return f"{position:03d}-{ref.dataset[:60].replace('.', '-')}-{ref.index}"


def write_archive(path: Path, folder: Path, maps: list[dict[str, Any]]) -> None:
    """All maps as one npz, read and written one by one; ``index`` is a JSON string array.

    ``json.loads(str(np.load(path)["index"]))`` lists, for each key, what it is a map of.
    """
    index = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in maps:
            file = folder.parent / entry["artifact"]
            key = str(file.relative_to(folder).with_suffix(""))
            _add(archive, key, file.read_bytes())
            index.append({"key": key, **entry})
        buffer = io.BytesIO()
        np.save(buffer, np.array(json.dumps(index)))
        _add(archive, "index", buffer.getvalue())


def _add(archive: zipfile.ZipFile, key: str, content: bytes) -> None:
    # A fixed date, so that the same maps make the same bytes.
    entry = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
    archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
