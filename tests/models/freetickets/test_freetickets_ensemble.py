"""Figures of ensembles: properties 11 and 12, calibration, detection, shifts."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from models.freetickets import ensemble, shifts
from models.supervised import evaluate


def logs_of(seed, members=3, n=40, classes=5, scale=3.0):
    draw = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(members, n, classes, generator=draw)
    return logits.log_softmax(2), torch.randint(classes, (n,), generator=draw)


@given(st.integers(0, 2**16))
def test_mean_is_better_than_the_mean_member(seed):
    """Property 12: Jensen, for NLL and Brier score, always."""
    logs, labels = logs_of(seed)
    together = ensemble.figures(ensemble.mixture(logs), labels)
    members = [ensemble.figures(one, labels) for one in logs]
    assert together.nll <= sum(m.nll for m in members) / 3 + 1e-12
    assert together.brier <= sum(m.brier for m in members) / 3 + 1e-12


def test_copies_and_permutations():
    """Property 11: copies are the member, the order is of no matter, large logits stay finite."""
    logs, labels = logs_of(1)
    copies = logs[:1].expand(4, -1, -1)
    torch.testing.assert_close(ensemble.mixture(copies), logs[0].double())
    a, b = ensemble.mixture(logs), ensemble.mixture(logs[[2, 0, 1]])
    torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-14)
    extreme = torch.tensor([[[1000.0, -1000.0]], [[-1000.0, 1000.0]]]).log_softmax(2)
    actual = ensemble.figures(ensemble.mixture(extreme), labels[:1] * 0)
    assert actual.nll == pytest.approx(math.log(2))
    assert ensemble.mixture(logs).exp().sum(1) == pytest.approx(torch.ones(40).double())


def test_calibration_is_that_of_the_core():
    logs, labels = logs_of(2, n=500)
    actual = ensemble.bins(logs[0], labels)
    assert actual.ece == pytest.approx(evaluate.calibration_error(logs[0], labels), abs=1e-12)
    assert int(actual.counts.sum()) == 500
    assert len(ensemble.bins(logs[0], labels, mode="reference14").counts) == 14


def test_calibration_by_hand():
    """Ten predictions of confidence .8, seven right: ECE .1; Brier by hand."""
    logs = torch.tensor([[0.8, 0.2]]).log().expand(10, 2)
    labels = torch.tensor([0] * 7 + [1] * 3)
    actual = ensemble.figures(logs, labels)
    assert actual.ece == pytest.approx(0.1, abs=1e-7)
    assert actual.brier == pytest.approx(0.7 * 2 * 0.04 + 0.3 * 2 * 0.64, abs=1e-6)


def test_disagreement_and_divergence():
    logs, _ = logs_of(3)
    differ, apart = ensemble.disagreement(logs), ensemble.divergence(logs)
    assert torch.equal(differ, differ.T)
    assert torch.equal(differ.diagonal(), torch.zeros(3).double())
    assert differ[0, 1] == (logs[0].argmax(1) != logs[1].argmax(1)).double().mean()
    expected = torch.distributions.kl_divergence(
        *(torch.distributions.Categorical(logits=logs[i].double()) for i in (0, 2))
    ).mean()
    torch.testing.assert_close(apart[0, 2], expected)
    assert ensemble.off_diagonal(differ) == pytest.approx(differ.sum().item() / 6)
    assert ensemble.off_diagonal(differ[:1, :1]) is None


@given(st.integers(0, 2**16))
def test_detection_counts_pairs(seed):
    """AUROC is the share of pairs in the right order, ties one half; FPR from its definition."""
    draw = torch.Generator().manual_seed(seed)
    a = torch.randint(6, (15,), generator=draw).double()
    b = torch.randint(6, (12,), generator=draw).double() + 1
    pairs = (b[:, None] > a).double() + (b[:, None] == a).double() / 2
    actual = ensemble.detect(a, b)
    assert actual.auroc == pytest.approx(pairs.mean().item())
    limit = max(t for t in range(8) if (b >= t).double().mean() >= 0.95)
    assert actual.fpr95 == pytest.approx((a >= limit).double().mean().item())


def test_doubt():
    """Mutual information is 0 for copies and never negative; entropy of a uniform net is log C."""
    logs, _ = logs_of(4)
    assert ensemble.doubt(logs)["mutual_information"].min() > 0
    copies = ensemble.doubt(logs[:1].expand(3, -1, -1))
    assert copies["mutual_information"].abs().max() < 1e-6
    flat = ensemble.doubt(torch.zeros(2, 3, 5).log_softmax(2))
    torch.testing.assert_close(flat["entropy"], torch.full((3,), math.log(5)).double())


def test_overlap_matrix():
    a, b = torch.tensor([True, True, False]), torch.tensor([False, True, True])
    expected = torch.tensor([[1, 1 / 3], [1 / 3, 1]], dtype=torch.float64)
    torch.testing.assert_close(ensemble.jaccard([a, b]), expected)


def test_attack_raises_the_loss_within_its_bound(data):
    """FGSM moves every pixel by at most eps, stays in 0..1 and hurts the ensemble."""
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).eval() for _ in range(2)]
    pixels, labels, eps = data.test, data.test_labels, 8 / 255
    x = shifts.attacked(nets, data, pixels, labels, eps)
    moved = x * data.std[0] + data.mean[0]
    clean = pixels.permute(0, 3, 1, 2).float() / 255
    assert (moved - clean).abs().max() <= eps + 1e-6
    assert moved.min() >= -1e-6
    assert moved.max() <= 1 + 1e-6

    def nll(images):
        logs = torch.stack([net(images).log_softmax(1) for net in nets])
        return ensemble.figures(ensemble.mixture(logs.detach()), labels).nll

    assert nll(x) > nll((clean - data.mean[0]) / data.std[0])
