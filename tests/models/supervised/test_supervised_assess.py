"""What is said of a trained classifier, class by class."""

import csv
import json

import pytest
import torch

from models.data import images
from models.supervised.assess import assess_predictions, figures
from models.supervised.assess_pictures import calibration
from models.supervised.evaluate import calibration_bins, calibration_error, confusion


def logs_of(predicted, classes):
    return torch.nn.functional.one_hot(torch.tensor(predicted), classes).float().log_softmax(1)


def data_of(labels, classes):
    x, y = torch.zeros(len(labels), 4, 4, 1, dtype=torch.uint8), torch.tensor(labels)
    return images.from_tensors([x, y], [x, y], list("abcdefgh"[:classes]), "cpu")


def told(run):
    lines = [json.loads(line) for line in (run.dir / "events.jsonl").read_text().splitlines()]
    return {line["code"]: line["message"] for line in lines if line.get("event") == "warning"}


def table(run, name):
    return list(csv.DictReader((run.dir / name).read_text().splitlines()))


def test_naming_the_most_frequent_class_is_no_success(new_run):
    """98.3 % of images of one class: an accuracy of 98.3 % is said to be worth nothing."""
    labels, run = [0] * 59 + [1], new_run()
    found = assess_predictions(logs_of([0] * 60, 2), torch.tensor(labels), data_of(labels, 2), run)
    assert found["balanced_test_accuracy"] == 0.5
    assert found["majority_share"] == pytest.approx(59 / 60)
    assert "98.3% of the test images are of one class" in told(run)["imbalanced"]
    assert told(run)["classes_missed"].startswith("no test image of b was recognised (1 of 2")


def test_a_good_net_is_not_warned_of(new_run):
    labels, run = [0] * 8 + [1] * 2, new_run()
    found = assess_predictions(logs_of(labels, 2), torch.tensor(labels), data_of(labels, 2), run)
    assert found["balanced_test_accuracy"] == 1
    assert not told(run)


def test_tables_tell_classes_and_confusions(new_run):
    labels, predicted, run = [0, 0, 1, 1, 1], [0, 1, 1, 1, 2], new_run()
    assess_predictions(logs_of(predicted, 3), torch.tensor(labels), data_of(labels, 3), run)
    rows = table(run, "classes.csv")
    assert [row["accuracy"] for row in rows] == ["0.5", str(2 / 3), ""]
    assert [row["predicted"] for row in rows] == ["1", "3", "1"]
    assert [row["training_images"] for row in rows] == ["2", "3", "0"]
    counts = [list(row.values())[1:] for row in table(run, "confusion.csv")]
    assert counts == [["1", "1", "0"], ["0", "2", "1"], ["0", "0", "0"]]
    assert (run.dir / "confusion.png").stat().st_size > 1000


def test_top_5():
    """The true class is the sixth of seven for one image of four."""
    order = torch.arange(7.0).expand(4, -1).log_softmax(1)
    labels = torch.tensor([6, 2, 1, 3])
    found = figures(order, labels, confusion(order, labels))
    assert found["top5_test_accuracy"] == 0.75
    few = order[:, :5]
    assert "top5_test_accuracy" not in figures(few, labels % 5, confusion(few, labels % 5))


def test_calibration_bins_are_those_of_the_error(tmp_path):
    """The gaps of the bins, weighted by their images, are the expected calibration error."""
    numbers = torch.Generator().manual_seed(0)
    logs = (3 * torch.randn(500, 4, generator=numbers)).log_softmax(1)
    labels = torch.randint(4, (500,), generator=numbers)
    bins = calibration_bins(logs, labels)
    gaps = (bins.accuracy - bins.confidence).abs() * bins.counts / 500
    assert bins.counts.sum() == 500
    assert gaps.sum().item() == pytest.approx(calibration_error(logs, labels))
    calibration(tmp_path / "calibration.png", logs, labels)
    assert (tmp_path / "calibration.png").stat().st_size > 1000
