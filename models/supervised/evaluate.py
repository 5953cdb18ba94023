"""How good a classifier is: accuracy, likelihood, calibration, confusion."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

ECE_BINS = 15


class Scores(NamedTuple):
    """Figures over a whole set; ``nll`` in nats, the others in [0, 1]."""

    accuracy: float
    nll: float
    ece: float


@torch.no_grad()
def predict(
    net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[Float[Tensor, "n classes"], Int64[Tensor, "n"]]:
    """Log-probabilities in float32 and labels of all images; the net's mode is kept.

    Batches are images [b, c, h, w] and labels [b].
    """
    training = net.training
    net.eval()
    pairs = [(net(images).float().log_softmax(1), labels) for images, labels in batches]
    net.train(training)
    logs, labels = zip(*pairs, strict=True)
    return torch.cat(logs), torch.cat(labels)


def score(log_probs: Float[Tensor, "n classes"], labels: Int64[Tensor, "n"]) -> Scores:
    """Accuracy, negative log-likelihood and expected calibration error."""
    right = (log_probs.argmax(1) == labels).double()
    nll = functional.nll_loss(log_probs.double(), labels)
    return Scores(right.mean().item(), nll.item(), calibration_error(log_probs, labels))


def calibration_error(log_probs: Float[Tensor, "n classes"], labels: Int64[Tensor, "n"]) -> float:
    """Expected calibration error over 15 equal bins of confidence (Guo et al., 2017, eq. 3)."""
    confidence, right, bins = _binned(log_probs, labels)
    sums = torch.zeros(ECE_BINS, dtype=torch.float64).index_add(0, bins, right - confidence)
    return (sums.abs().sum() / len(labels)).item()


class CalibrationBins(NamedTuple):
    """Of each bin of confidence [15]: images, their mean confidence, and their accuracy."""

    counts: Tensor
    confidence: Tensor
    accuracy: Tensor


def calibration_bins(
    log_probs: Float[Tensor, "n classes"], labels: Int64[Tensor, "n"]
) -> CalibrationBins:
    """The bins of :func:`calibration_error`; those of an empty one are 0."""
    confidence, right, bins = _binned(log_probs, labels)
    empty = torch.zeros(ECE_BINS, dtype=torch.float64)
    counts = empty.index_add(0, bins, torch.ones_like(right))
    sums = (empty.index_add(0, bins, values) for values in (confidence, right))
    return CalibrationBins(counts, *(total / counts.clamp(min=1) for total in sums))


def _binned(log_probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Confidence, whether the prediction is right, and bin of each image, on the CPU."""
    top, predicted = log_probs.max(1)
    confidence = top.double().exp()
    bins = (confidence * ECE_BINS).ceil().long().clamp(1, ECE_BINS) - 1
    return confidence.cpu(), (predicted == labels).double().cpu(), bins.cpu()


def confusion(
    log_probs: Float[Tensor, "n classes"], labels: Int64[Tensor, "n"]
) -> Int64[Tensor, "classes classes"]:
    """Counts with the true class as row and the predicted class as column."""
    classes = log_probs.shape[1]
    cells = labels * classes + log_probs.argmax(1)
    return torch.bincount(cells, minlength=classes**2).view(classes, classes)
