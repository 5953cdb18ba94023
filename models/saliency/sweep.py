"""Carries out ``saliency.sweep``: maps and grades of all cells, then what they disagree about."""

from pathlib import Path
from typing import Any

import torch

from models.core import checkpoint
from models.core.errors import DataError
from models.core.run import Run, StoppedError
from models.saliency import analysis, html_report
from models.saliency.evaluate import described, write_json
from models.saliency.figures import charts
from models.saliency.figures.maps import style
from models.saliency.net import images
from models.saliency.spec.evaluate import SaliencySweep
from models.saliency.spec.parts import labels
from models.saliency.study import Graded, Study, grader_labels, write_tables


def sweep(spec: SaliencySweep, run: Run) -> None:
    """Make and grade every map; report divergence by factor, and agreement of methods and graders.

    A stop leaves a checkpoint of all finished cells; a run that goes on from it makes the rest.

    Raises:
        SpecError: if the spec does not fit the net or the images, or asks for too many rows.
        DataError: if an image or the checkpoint cannot be used.
        StoppedError: between two batches, if a stop was requested.
    """
    study, found = Study(spec, run), restore(run)
    try:
        study.carry_out(found)
    except StoppedError:
        if run.stop_wants_checkpoint:
            save(found, run)
        raise
    write_tables(found, run)
    told = analyse(spec, found)
    pictures = draw(study, found, told, run)
    write_json(run, "sweep.json", {"kind": spec.kind, **described(study, found), **told})
    html_report.write(run.dir / "report.html", spec, found, told, pictures)
    run.artifact("report.html", role="report")
    run.result(
        maps=len(found.maps),
        rows=found.rows,
        divergence=told["divergence"],
        warnings=len(found.warnings),
    )


def analyse(spec: SaliencySweep, found: Graded) -> dict[str, Any]:
    """All figures of section 6 of the method."""
    graders = grader_labels(spec)
    good = analysis.goodness(found, graders)
    methods, agreement = analysis.method_agreement(found)
    names, between = analysis.grader_agreement(good)
    return {
        "divergence": analysis.divergence(found, spec.seed),
        "method_agreement": {"names": methods, "spearman": analysis.finite(agreement)},
        "grader_agreement": {"names": names, "kendall": analysis.finite(between)},
        "grader_reliability": analysis.reliability(good),
        "winner_changes_with_baseline": analysis.winners(found, good),
        "controls_not_beaten": analysis.controls(found, good),
        "interaction": analysis.interaction(found, graders),
    }


def draw(study: Study, found: Graded, told: dict[str, Any], run: Run) -> list[Path]:
    """A contact sheet for each image, agreement of methods and of graders, curves."""
    paths = []
    said = {
        label: style(method, study.spec.score)
        for method, label in zip(study.spec.methods, labels(study.spec.methods), strict=True)
    }
    for position, image in enumerate(found.images):
        target = found.images[image]["targets"][0]
        maps = {
            (key.method, key.baseline): values
            for key, values in reversed(found.maps.items())
            if (key.image, key.target) == (image, target["class"])
        }
        pixels = images.prepare(study.images[position], study.subject, image)
        paths.append(run.dir / f"contact-{position:03d}.png")
        charts.contact_sheet(
            paths[-1],
            dict(reversed(maps.items())),
            pixels.permute(1, 2, 0).numpy(),
            f"{image}: {target['name']}, score {target['score']:.2f}; each row on its own scale",
            said,
        )
    for name, figure, title in (
        ("method_agreement", "spearman", "Agreement of methods at the same baseline"),
        ("grader_agreement", "kendall", "Agreement of graders on the ranking of map makers"),
    ):
        paths.append(run.dir / f"{name}.png")
        matrix = torch.tensor(
            [[float("nan") if v is None else v for v in row] for row in told[name][figure]]
        ).numpy()
        label = "mean Spearman" if figure == "spearman" else "mean Kendall tau"
        charts.heat_map(paths[-1], matrix, told[name]["names"], title, label)
    if found.curves:
        paths.append(run.dir / "curves.png")
        charts.curves(paths[-1], found.curves)
    for path in paths:
        run.artifact(path.name, role="image")
    return paths


def save(found: Graded, run: Run) -> None:
    """Write a checkpoint of all finished cells."""
    name = checkpoint.name_of(len(found.maps))
    tensors = {
        f"map.{place}": torch.from_numpy(values) for place, values in enumerate(found.maps.values())
    }
    checkpoint.write(
        run.dir / name, tensors or {"none": torch.zeros(1)}, {"sweep": found.described()}
    )
    run.artifact(name, role="checkpoint", step=len(found.maps))


def restore(run: Run) -> Graded:
    """What the checkpoint to go on from holds, or nothing yet.

    Raises:
        DataError: if the file is damaged or of another kind of job.
    """
    if run.resume is None:
        return Graded()
    tensors, told = checkpoint.read(run.resume)
    if "sweep" not in told:
        raise DataError(
            f"{run.resume.name} is no checkpoint of a sweep",
            hint="resume from a checkpoint of a saliency.sweep job",
        )
    return Graded.restored(tensors, told["sweep"])
