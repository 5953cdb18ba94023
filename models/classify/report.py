"""Tables, figures and a picture of predictions."""

import csv
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from models.classify.classifier import Classifier
from models.classify.predicted import Predicted
from models.classify.spec import ClassifyPredict
from models.core import device
from models.core.run import Run
from models.supervised.evaluate import score

SHOWN = 24  # images in the picture
TOLD = 20  # images in the result


def write(spec: ClassifyPredict, classifier: Classifier, predicted: Predicted, run: Run) -> None:
    """Leave everything and report the result.

    Args:
        spec: of the job.
        classifier: that was asked.
        predicted: what it said.
        run: takes the files.
    """
    classes = classifier.about.classes
    count = min(spec.top, len(classes))
    top, order = predicted.log_probs.exp().topk(count, dim=1)
    rows = _rows(predicted, classes, top, order)
    with (run.dir / "predictions.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    run.artifact("predictions.csv", role="table")
    _arrays(predicted, classes, run)
    figures = _figures(predicted, classes, count)
    _draw(predicted, classes, run)
    contents = {
        "result": figures,
        "members": len(classifier.nets),
        "preparation": _preparation(classifier),
        "card": classifier.card,
        "spec": spec.model_dump(mode="json"),
        "device": device.describe(run.device),
    }
    run.report("report.json", contents)
    run.result(**figures, predictions=[_brief(row) for row in rows[:TOLD]])


def _rows(
    predicted: Predicted, classes: list[str], top: Tensor, order: Tensor
) -> list[dict[str, Any]]:
    """A row an image: its class where it is known, then the likeliest classes."""
    rows = []
    labels = predicted.truth.tolist()
    known = any(label >= 0 for label in labels)
    for name, label, values, numbers in zip(
        predicted.names, labels, top.tolist(), order.tolist(), strict=True
    ):
        row: dict[str, Any] = {"image": name}
        if known:
            row["true_class"] = classes[label] if label >= 0 else ""
        for rank, (value, number) in enumerate(zip(values, numbers, strict=True), 1):
            row |= {f"class_{rank}": classes[number], f"probability_{rank}": value}
        rows.append(row)
    return rows


def _brief(row: Mapping[str, Any]) -> dict[str, Any]:
    """The likeliest class alone: an event has a limit of bytes, the table has none."""
    first = {"class": row["class_1"], "probability": row["probability_1"]}
    return {"image": row["image"]} | first


def _arrays(predicted: Predicted, classes: list[str], run: Run) -> None:
    arrays = {
        "probabilities": predicted.log_probs.exp().numpy(),
        "classes": np.array(classes),
        "images": np.array(predicted.names),
    }
    np.savez(run.dir / "probabilities.npz", allow_pickle=False, **arrays)
    run.artifact("probabilities.npz", role="table")


def _figures(predicted: Predicted, classes: list[str], count: int) -> dict[str, Any]:
    """Of all images, and of those whose class is known."""
    top, named = predicted.log_probs.max(1)
    counts = Counter(classes[number] for number in named.tolist())
    figures: dict[str, Any] = {
        "images": len(named),
        "mean_confidence": top.exp().mean().item(),
        "predicted": dict(counts.most_common(TOLD)),
    }
    known = predicted.truth >= 0
    if not known.any():
        return figures
    log_probs, labels = predicted.log_probs[known], predicted.truth[known]
    scores = score(log_probs, labels)
    best = log_probs.topk(count, dim=1).indices
    figures |= {"scored": len(labels), **scores._asdict()}
    figures[f"top{count}_accuracy"] = (best == labels[:, None]).any(1).double().mean().item()
    return figures


def _preparation(classifier: Classifier) -> dict[str, Any]:
    about = classifier.about
    height, width = about.size
    way = {"crop": "central", "squash": "whole"}[about.fit]
    if classifier.margin is not None:
        way = f"central, margin {classifier.margin:.3f}"
    return {
        "height": height,
        "width": width,
        "channels": about.channels,
        "mean": about.mean,
        "std": about.std,
        "resized": way,
    }


def _draw(predicted: Predicted, classes: list[str], run: Run) -> None:
    # matplotlib is for this picture alone
    from models.classify import pictures

    top, named = predicted.log_probs[: len(predicted.shown)].max(1)
    titles = [
        f"{classes[number][:24]}\n{value:.0%}"
        for number, value in zip(named.tolist(), top.exp().tolist(), strict=True)
    ]
    truth = predicted.truth[: len(titles)]
    right = [None if label < 0 else bool(label == n) for label, n in zip(truth, named, strict=True)]
    pictures.draw(run.dir / "predictions.png", predicted.shown, titles, right)
    run.figure("predictions.png")
