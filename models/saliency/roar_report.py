"""What ``saliency.roar`` leaves: a table, a picture and how methods compare with chance."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from models.core import device, figures
from models.core.run import Run
from models.data.images import ImageData
from models.saliency.estimates import holm, t_interval
from models.saliency.spec.roar import SaliencyRoar

LEAST_SEEDS = 3  # below that an interval tells nothing of the spread
FINDING = 0.05  # corrected p below which removal by a method differs from removal at random
ROUNDING = 1e-12  # of means of accuracies
Accuracies = Mapping[tuple[str, float, int], float]


def write(spec: SaliencyRoar, data: ImageData, accuracy: Accuracies, run: Run) -> None:
    """Leave table, picture and report, and the result.

    Args:
        spec: of the job.
        data: whole images.
        accuracy: of each training by arm, share and seed.
        run: takes the files.
    """
    with (run.dir / "trainings.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["ranking", "share", "seed", "test_accuracy"])
        table.writerows([*training, value] for training, value in accuracy.items())
    run.artifact("trainings.csv", role="table")
    comparisons = compare(spec, accuracy)
    draw(run.dir / "roar.png", spec, accuracy, title(comparisons))
    run.figure("roar.png", data=True)
    whole = [value for (arm, _, _), value in accuracy.items() if arm == "none"]
    report = {
        "kind": spec.kind,
        "data": spec.data.model_dump(exclude_none=True),
        "net": spec.net(),
        "images": {part: len(getattr(data, part)) for part in ("train", "validation", "test")},
        "seeds": [spec.seed + seed for seed in spec.seeds],
        "chance": chance(data),
        "whole_images": spread(np.array(whole)),
        "accuracy": [
            {"ranking": arm, "share": share, **spread(_seeds(spec, accuracy, arm, share))}
            for arm in spec.arms()
            for share in spec.shares
        ],
        "comparisons": comparisons,
        "versions": device.versions(run.device),
    }
    run.report("report.json", report)
    run.result(
        trainings=len(accuracy),
        whole_images=float(np.mean(whole)),
        better_than_random=sum(bool(each["finding"]) for each in comparisons),
    )


def chance(data: ImageData) -> float:
    """Accuracy on the test images of the class that most training images have."""
    frequent = data.train_labels.bincount(minlength=len(data.classes)).argmax()
    return float((data.test_labels == frequent).double().mean())


def compare(spec: SaliencyRoar, accuracy: Accuracies) -> list[dict[str, Any]]:
    """How much more accuracy is lost without the pixels of a method than without random ones.

    The difference of a seed is a mean over shares; both trainings have its initial weights and its
    batches. Tested by t over seeds, corrected for the number of methods (Holm).
    """
    arms, differences = spec.arms()[1:], []
    for arm in arms:
        gaps = [
            _seeds(spec, accuracy, "random", share) - _seeds(spec, accuracy, arm, share)
            for share in spec.shares
        ]
        differences.append(np.mean(gaps, axis=0))
    p = [p_value(each) for each in differences]
    return [
        {
            "ranking": arm,
            "lost_beyond_random": spread(each),
            "p": before,
            "p_corrected": after,
            "finding": None if after is None else after < FINDING and float(each.mean()) > 0,
        }
        for arm, each, before, after in zip(arms, differences, p, holm(p), strict=True)
    ]


def _seeds(
    spec: SaliencyRoar, accuracy: Accuracies, arm: str, share: float
) -> Float[np.ndarray, "seeds"]:
    return np.array([accuracy[arm, share, spec.seed + seed] for seed in spec.seeds])


def spread(values: Float[np.ndarray, "seeds"]) -> dict[str, Any]:
    """Mean over seeds, their standard deviation, and the 95 % t interval of the mean.

    No interval below three seeds.
    """
    count = len(values)
    return {
        "mean": float(values.mean()),
        "sd": float(values.std(ddof=1)) if count > 1 else None,
        "seeds": count,
        "interval": t_interval(values) if count >= LEAST_SEEDS else None,
    }


def p_value(gaps: Float[np.ndarray, "seeds"]) -> float | None:
    """Two-sided p of a t test that the mean over seeds is 0; None below three seeds.

    None, too, where all seeds give one difference other than 0, as they do with few test images: t
    would be infinite.
    """
    if len(gaps) < LEAST_SEEDS:
        return None
    if np.ptp(gaps) < ROUNDING:
        return 1.0 if abs(gaps[0]) < ROUNDING else None
    return float(stats.ttest_1samp(gaps, 0.0).pvalue)


def title(comparisons: list[dict[str, Any]]) -> str:
    """What was found, in a sentence."""
    better = [each["ranking"] for each in comparisons if each["finding"]]
    if better:
        return f"Removal by {', '.join(better)} costs more accuracy than random removal"
    if comparisons[0]["lost_beyond_random"]["seeds"] < LEAST_SEEDS:
        return f"Below {LEAST_SEEDS} seeds no ranking can be told from a random one"
    if any(each["p"] is None for each in comparisons):
        return "Seeds that do not differ tell no ranking from a random one: use more test images"
    return "No ranking costs more accuracy than a random one"


@figures.styled
def draw(path: Path, spec: SaliencyRoar, accuracy: Accuracies, text: str) -> None:
    """Draw the mean accuracy of each ranking over the share, with deviations over seeds.

    Args:
        path: of the PNG.
        spec: of the job.
        accuracy: of each training.
        text: the title.
    """
    figure = figures.new(6.4, 4.2)
    axes = figure.subplots()
    shares = [0.0, *sorted(spec.shares)]
    rows = []
    for index, arm in enumerate(spec.arms()):
        points = [
            spread(_seeds(spec, accuracy, arm if share else "none", share)) for share in shares
        ]
        means = [point["mean"] for point in points]
        deviations = [point["sd"] or 0.0 for point in points]
        axes.errorbar(shares, means, deviations, fmt="none", ecolor="0.5", capsize=2)
        figures.line(axes, shares, means, index, label=arm)
        rows += [
            {"ranking": arm, "share": share, "mean": mean, "sd": sd}
            for share, mean, sd in zip(shares, means, deviations, strict=True)
        ]
    axes.set_xlabel("share of pixels replaced by the mean colour, then trained anew")
    axes.set_ylabel("test accuracy")
    axes.grid(visible=True)
    axes.legend(title="ranked by")
    figures.title(figure, text)
    figures.save(figure, path, rows)
