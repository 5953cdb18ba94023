"""Carries out ``saliency.evaluate``: maps, their grades, curves and agreement."""

import itertools
import json
from typing import Any

import numpy as np
import torch

from models.core.run import Run, StoppedError
from models.saliency.figures import charts
from models.saliency.graders.agreement import compare
from models.saliency.spec.evaluate import SaliencyEvaluate
from models.saliency.spec.graders import LOWER_IS_BETTER
from models.saliency.study import Graded, Study, write_tables


def evaluate(spec: SaliencyEvaluate, run: Run) -> None:
    """Make every map of the spec and grade it; compare the maps of an image with each other.

    A stop leaves the tables of the maps finished so far.

    Raises:
        SpecError: if the spec does not fit the net or the images.
        DataError: if an image cannot be used.
        StoppedError: between two batches, if a stop was requested.
    """
    study, found = Study(spec, run), Graded()
    try:
        study.carry_out(found)
    except StoppedError:
        if found.maps:
            write_tables(found, run)
        raise
    write_tables(found, run)
    if found.curves:
        charts.curves(run.dir / "curves.png", found.curves)
        run.artifact("curves.png", role="image")
    report = {
        "kind": spec.kind,
        **described(study, found),
        "agreement": agreement(found),
        "lower_is_better": sorted(LOWER_IS_BETTER),
    }
    write_json(run, "metrics.json", report)
    run.result(maps=len(found.maps), rows=found.rows, warnings=len(found.warnings))


def described(study: Study, found: Graded) -> dict[str, Any]:
    """What every report begins with: the net, the images and how they were read; no times."""
    return {
        "model": study.spec.model.model_dump(exclude_none=True),
        "score": study.spec.score,
        "seed": study.spec.seed,
        "rows": found.rows,
        "engine": "plain" if study.scorer.plan is None else "plan",
        "device": study.run.device,
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "warnings": found.warnings,
        "images": found.images,
        "grades": [{**key._asdict(), "values": grades} for key, grades in found.grades.items()],
    }


def agreement(found: Graded) -> list[dict[str, Any]]:
    """Every two maps of an image and class, with all figures of section 5.5."""
    told = []
    for a, b in itertools.combinations(found.maps, 2):
        if (a.image, a.target) == (b.image, b.target):
            pair = {
                "image": a.image,
                "class": a.target,
                "a": f"{a.method}-{a.baseline}-seed{a.seed}",
                "b": f"{b.method}-{b.baseline}-seed{b.seed}",
            }
            told.append(pair | compare(found.maps[a], found.maps[b]))
    return told


def write_json(run: Run, name: str, report: dict[str, Any]) -> None:
    """A report as an artifact; NaN is refused."""
    (run.dir / name).write_text(json.dumps(report, indent=1, allow_nan=False))
    run.artifact(name, role="report")
