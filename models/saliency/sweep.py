"""Runs ``saliency.sweep``: maps and grades of all cells, then how far they disagree."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.core import checkpoint
from models.core.errors import DataError
from models.core.run import Run, StoppedError
from models.saliency import analysis, effects, html_report, references, view
from models.saliency.evaluate import described
from models.saliency.figures import charts
from models.saliency.figures.maps import style
from models.saliency.graders.registry import grader_labels
from models.saliency.net import images
from models.saliency.results import EvaluationResults, write_tables
from models.saliency.spec.evaluate import SaliencySweep
from models.saliency.spec.fields import labels
from models.saliency.study import Study

MATRICES = ("method_agreement", "grader_agreement")
SHEETS = 12  # contact sheets; one takes seconds, and a report with hundreds opens nowhere


def sweep(spec: SaliencySweep, run: Run) -> None:
    """Compute and grade every map; report effects by factor, agreement of methods and graders.

    A stop leaves a checkpoint of all finished cells, from which a later run resumes.

    Raises:
        SpecError: if the spec does not fit the net or the images, or asks for too many rows.
        DataError: if an image or the checkpoint cannot be used.
        StoppedError: between two batches, if a stop was requested.
    """
    study, results = Study(spec, run), restore(run)
    try:
        study.run(results)
    except StoppedError:
        if run.stop_wants_checkpoint:
            save(results, run)
        raise
    write_tables(results, run)
    references.leave(spec, run)
    view.write(run, study.cases, view.of_results(run, results))
    findings = analyse(spec, results)
    pictures = draw(study, results, findings, run)
    report = {"kind": spec.kind, **described(study, results), **findings}
    run.report("sweep.json", report)
    html_report.write(
        run.dir / "report.html", spec, study.cases.score_word, results, report, pictures
    )
    run.artifact("report.html", role="report")
    run.result(
        maps=len(results.maps),
        rows=results.rows,
        comparisons=len(findings["effects"]),
        findings=sum(bool(effect["finding"]) for effect in findings["effects"]),
        warnings=len(results.warnings),
    )


def analyse(spec: SaliencySweep, results: EvaluationResults) -> dict[str, Any]:
    """All figures of how far maps, methods and graders disagree (README, section 3)."""
    graders = grader_labels(spec.graders)
    left_out = excluded(spec, results)
    good = analysis.Goodness(results, graders, left_out)
    maps = effects.image_maps(results, left_out)
    return {
        "design": {
            "images": len(results.images) - len(left_out),
            "left_out": sorted(left_out),
            "least_score": spec.least_score,
            "seeds": [spec.seed + seed for seed in spec.seeds],
            "control_draws": spec.control_draws,
            "comparisons": len(spec.comparisons()),
        },
        "effects": effects.effects(spec, maps),
        "noise": effects.noise(spec, maps),
        "method_agreement": analysis.method_agreement(maps),
        "grader_agreement": analysis.grader_agreement(good),
        "grader_reliability": analysis.reliability(good),
        "winner_changes_with_baseline": analysis.winners(good),
        "controls_not_beaten": analysis.controls(good),
        "interaction": analysis.interaction(results, graders, left_out),
    }


def excluded(spec: SaliencySweep, results: EvaluationResults) -> set[str]:
    """Images whose first explained class scores less than the spec's ``least_score``."""
    if spec.least_score is None:
        return set()
    return {
        name
        for name, described in results.images.items()
        if described["targets"][0]["score"] < spec.least_score
    }


def draw(
    study: Study, results: EvaluationResults, findings: dict[str, Any], run: Run
) -> list[Path]:
    """Draw contact sheets of the first 12 images, agreement of methods and of graders, curves.

    Args:
        study: the net and the images.
        results: maps and curves.
        findings: as :func:`analyse` returns them.
        run: gets the pictures as artifacts.
    """
    paths = []
    styles = {
        label: style(method, study.cases.score_word)
        for method, label in zip(study.spec.methods, labels(study.spec.methods), strict=True)
    }
    for position, image in enumerate(islice(results.images, SHEETS)):
        target = results.images[image]["targets"][0]
        maps = {
            (key.method, key.baseline): values
            for key, values in reversed(results.maps.items())
            if (key.image, key.target) == (image, target["class"])
        }
        pixels = images.prepare(study.cases.images[position], study.cases.subject, image)
        paths.append(run.dir / f"contact-{position:03d}.png")
        charts.contact_sheet(
            paths[-1],
            dict(reversed(maps.items())),
            pixels.permute(1, 2, 0).numpy(),
            f"{image}: {target['name']}, score {target['score']:.2f}; each row on its own scale",
            styles,
        )
    for name, figure, title in (
        (MATRICES[0], "spearman", "Methods at the same baseline"),
        (MATRICES[1], "kendall", "Graders on the ranking of methods"),
    ):
        paths.append(run.dir / f"{name}.png")
        matrix = torch.tensor(
            [[float("nan") if v is None else v for v in row] for row in findings[name][figure]]
        ).numpy()
        label = "mean Spearman" if figure == "spearman" else "mean Kendall tau"
        names = findings[name]["names"]
        charts.heat_map(paths[-1], matrix, names, f"{title}{_closest(matrix, names)}", label)
    if results.curves:
        paths.append(run.dir / "curves.png")
        charts.curves(paths[-1], results.curves)
    for path in paths:
        run.figure(path.name, data=path.stem in MATRICES)
    return paths


def _closest(matrix: np.ndarray, names: list[str]) -> str:
    """Which two agree best, for a title; nothing where there are no two."""
    pairs = [
        (value, names[i], names[j])
        for (i, j), value in np.ndenumerate(matrix)
        if i < j and not np.isnan(value)
    ]
    if not pairs:
        return ""
    value, first, second = max(pairs)
    if value <= 0:
        return f": no two agree ({first} and {second}: {value:.2f})"
    return f": {first} and {second} agree best ({value:.2f})"


def save(results: EvaluationResults, run: Run) -> None:
    """Write a checkpoint of all finished cells."""
    name = checkpoint.name_of(len(results.maps))
    tensors = results.tensors() or {"none": torch.zeros(1)}
    checkpoint.write(run.dir / name, tensors, {"sweep": results.metadata()})
    run.artifact(name, role="checkpoint", step=len(results.maps))


def restore(run: Run) -> EvaluationResults:
    """The results in the checkpoint to resume from, or none.

    Raises:
        DataError: if the file is damaged or of another kind of job.
    """
    if run.resume is None:
        return EvaluationResults()
    tensors, metadata = checkpoint.read(run.resume)
    if "sweep" not in metadata:
        raise DataError(
            f"{run.resume.name} is no checkpoint of a sweep",
            hint="resume from a checkpoint of a saliency.sweep job",
        )
    return EvaluationResults.restored(tensors, metadata["sweep"])
