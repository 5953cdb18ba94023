"""What a trained classifier does class by class, and how far its confidence can be trusted."""

import csv
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor, nn

from models.core import device
from models.core.run import Run
from models.data import images
from models.data.images import ImageData
from models.supervised import evaluate
from models.supervised.spec import SupervisedSpec

TOP = 5
NAMED = 5  # classes in a warning
NO_BETTER = 0.01  # above the share of the most frequent class: as good as always naming it


def assess(net: nn.Module, data: ImageData, spec: SupervisedSpec, run: Run) -> dict[str, Any]:
    """Figures of a net on the test images; leaves tables and pictures, and says what is wrong.

    Args:
        net: its mode is kept.
        data: on the device of the run.
        spec: names the precision.
        run: takes files and warnings.
    """
    from models.supervised import assess_pictures

    with device.autocast(spec.precision, run.device):
        log_probs, labels = evaluate.predict(net, images.evaluation_batches(data))
    assess_pictures.calibration(run.dir / "calibration.png", log_probs, labels)
    run.figure("calibration.png", data=True)
    return assess_predictions(log_probs, labels, data, run)


def assess_predictions(
    log_probs: Float[Tensor, "n classes"], labels: Int64[Tensor, "n"], data: ImageData, run: Run
) -> dict[str, Any]:
    """The same, but for the calibration, of predictions.

    Args:
        log_probs: of the test images.
        labels: of the test images.
        data: that the net was trained on.
        run: takes files and warnings.
    """
    from models.supervised import assess_pictures

    counts = evaluate.confusion(log_probs, labels).cpu()
    trained = data.train_labels.bincount(minlength=len(data.classes)).cpu()
    rows = _rows(counts, trained, data.classes)
    _table(run, "classes.csv", list(rows[0]), [list(row.values()) for row in rows])
    named = zip(data.classes, counts.tolist(), strict=True)
    header = ["true class, predicted in columns", *data.classes]
    _table(run, "confusion.csv", header, [[name, *row] for name, row in named])
    assess_pictures.confusion(run.dir / "confusion.png", counts, data.classes)
    run.figure("confusion.png")
    summary = figures(log_probs, labels, counts)
    _warn(summary, rows, run)
    return summary


def figures(
    log_probs: Float[Tensor, "n classes"],
    labels: Int64[Tensor, "n"],
    counts: Int64[Tensor, "classes classes"],
) -> dict[str, float]:
    """Top-5 accuracy, mean accuracy of the classes, and share of the most frequent one.

    Top-5 is left out where there are no more than five classes. A net that always names the most
    frequent class has the accuracy ``majority_share`` and a balanced one of 1 / classes.
    """
    per_class = counts.sum(1)
    tested = per_class > 0
    recalls = counts.diagonal()[tested].double() / per_class[tested]
    summary = {
        "balanced_test_accuracy": recalls.mean().item(),
        "majority_share": (per_class.max().double() / per_class.sum()).item(),
    }
    if log_probs.shape[1] > TOP:
        best = log_probs.topk(TOP, dim=1).indices
        summary["top5_test_accuracy"] = (best == labels[:, None]).any(1).double().mean().item()
    return summary


def _rows(counts: Tensor, trained: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """A row a class; no accuracy where there is no test image."""
    tested, predicted = counts.sum(1).tolist(), counts.sum(0).tolist()
    right = counts.diagonal().tolist()
    return [
        {
            "class": name,
            "training_images": int(trained[k]),
            "test_images": tested[k],
            "predicted": predicted[k],
            "accuracy": right[k] / tested[k] if tested[k] else None,
        }
        for k, name in enumerate(classes)
    ]


def _warn(summary: dict[str, float], rows: Sequence[dict[str, Any]], run: Run) -> None:
    """Tell of classes that are never recognised, and of an accuracy that a constant reaches."""
    missed = [str(row["class"]) for row in rows if row["accuracy"] == 0]
    if missed:
        more = f" and {len(missed) - NAMED} more" if len(missed) > NAMED else ""
        run.warn(
            "classes_missed",
            f"no test image of {', '.join(missed[:NAMED])}{more} was recognised"
            f" ({len(missed)} of {len(rows)} classes)",
        )
    right = sum(row["accuracy"] * row["test_images"] for row in rows if row["test_images"])
    accuracy = right / sum(row["test_images"] for row in rows)
    majority, even = summary["majority_share"], 1 / len(rows)
    if majority > 1.2 * even and accuracy <= majority + NO_BETTER:
        run.warn(
            "imbalanced",
            f"{majority:.1%} of the test images are of one class, and an accuracy of {accuracy:.1%}"
            " is what naming it always would give; the mean over classes is"
            f" {summary['balanced_test_accuracy']:.1%}",
        )


def _table(run: Run, name: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with (run.dir / name).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(header)
        table.writerows(rows)
    run.artifact(name, role="table")
