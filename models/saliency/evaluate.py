"""Runs ``saliency.evaluate``: maps, their grades, curves and agreement."""

import itertools
from typing import Any

import numpy as np

from models.core import checkpoint, device
from models.core.run import Run, StoppedError
from models.saliency import references, view
from models.saliency.figures import charts
from models.saliency.graders.agreement import compare
from models.saliency.results import EvaluationResults, write_tables
from models.saliency.spec.evaluate import SaliencyEvaluate
from models.saliency.spec.graders import LOWER_IS_BETTER
from models.saliency.study import Study


def evaluate(spec: SaliencyEvaluate, run: Run) -> None:
    """Compute and grade every map of the spec; compare the maps of each image with each other.

    After a stop the tables hold the maps finished so far.

    Raises:
        SpecError: if the spec does not fit the net or the images.
        DataError: if an image cannot be used.
        StoppedError: between two batches, if a stop was requested.
    """
    study, results = Study(spec, run), EvaluationResults()
    try:
        study.run(results)
    except StoppedError:
        if results.maps:
            write_tables(results, run)
            view.write(run, study.cases, view.of_results(run, results))
        raise
    write_tables(results, run)
    references.leave(spec, run)
    view.write(run, study.cases, view.of_results(run, results))
    if results.curves:
        charts.curves(run.dir / "curves.png", results.curves)
        run.figure("curves.png")
    report = {
        "kind": spec.kind,
        **described(study, results),
        "agreement": agreement(results),
        "lower_is_better": sorted(LOWER_IS_BETTER),
    }
    run.report("metrics.json", report)
    run.result(maps=len(results.maps), rows=results.rows, warnings=len(results.warnings))


def described(study: Study, results: EvaluationResults) -> dict[str, Any]:
    """The first entries of a report: the net, the images, the software; no times."""
    return {
        "model": study.spec.model.model_dump(exclude_none=True),
        "net_sha256": checkpoint.digest_of(study.cases.subject.net),
        "score": study.spec.score,
        "outputs": study.cases.outputs,
        "seed": study.spec.seed,
        "rows": results.rows,
        "engine": "plain" if study.cases.scorer.plan is None else "plan",
        "device": study.device,
        "versions": device.versions(study.device) | {"numpy": np.__version__},
        "warnings": results.warnings,
        "images": results.images,
        "grades": [{**key._asdict(), "values": grades} for key, grades in results.grades.items()],
    }


def agreement(results: EvaluationResults) -> list[dict[str, Any]]:
    """All figures of agreement for every two maps of the same image and class."""
    pairs = []
    for a, b in itertools.combinations(results.maps, 2):
        if (a.image, a.target) == (b.image, b.target):
            pair = {
                "image": a.image,
                "class": a.target,
                "a": f"{a.method}-{a.baseline}-seed{a.seed}",
                "b": f"{b.method}-{b.baseline}-seed{b.seed}",
            }
            pairs.append(pair | compare(results.maps[a], results.maps[b]))
    return pairs
