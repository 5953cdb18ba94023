"""Scores against values worked out by hand."""

import math

import pytest
import torch
from torch import nn

from models.supervised.evaluate import calibration_error, confusion, predict, score

PROBABILITIES = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
LABELS = torch.tensor([0, 1, 1, 0])


def test_scores_by_hand():
    scores = score(PROBABILITIES.log(), LABELS)
    assert scores.accuracy == 0.75
    assert scores.nll == pytest.approx(-math.log(0.9 * 0.2 * 0.7 * 0.6) / 4)
    # Four bins with one image each: gaps 0.1, -0.8, 0.3, 0.4.
    assert scores.ece == pytest.approx((0.1 + 0.8 + 0.3 + 0.4) / 4)


def test_gaps_cancel_inside_a_bin():
    """Two images of confidence 0.5, one right: perfectly calibrated."""
    logs = torch.full((2, 2), 0.5).log()
    assert calibration_error(logs, torch.tensor([0, 1])) == pytest.approx(0, abs=1e-7)


def test_confusion_has_true_rows():
    assert confusion(PROBABILITIES.log(), LABELS).tolist() == [[2, 0], [1, 1]]


def test_predict_uses_eval_mode_and_keeps_the_mode():
    net = nn.Sequential(nn.Dropout(0.9), nn.Linear(3, 2)).train()
    x, labels = torch.randn(5, 3), torch.zeros(5, dtype=torch.int64)
    logs, predicted_labels = predict(net, [(x[:2], labels[:2]), (x[2:], labels[2:])])
    torch.testing.assert_close(logs, net[1](x).log_softmax(1))
    assert torch.equal(predicted_labels, labels)
    assert net.training
