"""What an ensemble predicts and how good, sure and diverse it is. float64, natural logarithms."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor
from torch.nn import functional

Logs = Float[Tensor, "members n classes"]


def mixture(logs: Logs) -> Float64[Tensor, "n classes"]:
    """Log of the members' mean probability: logsumexp over members - log M."""
    return logs.double().logsumexp(0) - math.log(len(logs))


class Figures(NamedTuple):
    """Of a set of predictions; ``nll`` in nats, ``brier`` summed over classes (0 to 2)."""

    accuracy: float
    nll: float
    brier: float
    ece: float


class Bins(NamedTuple):
    """Predictions by their confidence: edges, counts, mean confidence and accuracy of each bin."""

    edges: Float64[Tensor, "k1"]
    counts: Int64[Tensor, "k"]
    confidence: Float64[Tensor, "k"]
    accuracy: Float64[Tensor, "k"]

    @property
    def ece(self) -> float:
        """Expected calibration error (Guo et al., 2017, eq. 3)."""
        gaps = (self.accuracy - self.confidence).abs() * self.counts
        return (gaps.sum() / self.counts.sum()).item()


def bins(
    log_probs: Float[Tensor, "n classes"],
    labels: Int64[Tensor, "n"],
    count: int = 15,
    mode: str = "equal",
) -> Bins:
    """Equal-width bins (lo, hi] of the top probability.

    Args:
        log_probs: of the classes.
        labels: true classes.
        count: of bins under ``equal``.
        mode: ``reference14`` takes the 14 bins between 15 edges of the authors' code.
    """
    count = 14 if mode == "reference14" else count
    edges = torch.linspace(0, 1, count + 1, dtype=torch.float64)
    top, predicted = log_probs.double().max(1)
    sure, right = top.exp().cpu().clamp(max=1.0), (predicted == labels).double().cpu()
    index = torch.bucketize(sure, edges, right=False).clamp(1, count) - 1
    counts = torch.bincount(index, minlength=count)
    filled = counts.clamp(min=1)
    confidence = torch.zeros(count, dtype=torch.float64).index_add(0, index, sure) / filled
    accuracy = torch.zeros(count, dtype=torch.float64).index_add(0, index, right) / filled
    return Bins(edges, counts, confidence, accuracy)


def figures(
    log_probs: Float[Tensor, "n classes"],
    labels: Int64[Tensor, "n"],
    count: int = 15,
    mode: str = "equal",
) -> Figures:
    """Accuracy, NLL, Brier score and ECE of predictions.

    Args:
        log_probs: of the classes.
        labels: true classes.
        count: bins of the ECE under ``equal``.
        mode: of the bins, as in :func:`bins`.
    """
    logs = log_probs.double()
    truth = functional.one_hot(labels, logs.shape[1])
    return Figures(
        (logs.argmax(1) == labels).double().mean().item(),
        functional.nll_loss(logs, labels).item(),
        (logs.exp() - truth).square().sum(1).mean().item(),
        bins(logs, labels, count, mode).ece,
    )


def disagreement(logs: Logs) -> Float64[Tensor, "members members"]:
    """Share of inputs on which two members' predictions differ; 0 on the diagonal."""
    predicted = logs.argmax(2)
    return (predicted[:, None] != predicted[None]).double().mean(2)


def divergence(logs: Logs) -> Float64[Tensor, "members members"]:
    """Mean over inputs of KL(row member || column member), in nats."""
    logs = logs.double()
    rows = [(p.exp() * (p - logs)).sum(2).mean(1) for p in logs]
    return torch.stack(rows)


def off_diagonal(matrix: Float64[Tensor, "m m"]) -> float | None:
    """Mean over pairs of different members; None for a single one."""
    m = len(matrix)
    if m == 1:
        return None
    return ((matrix.sum() - matrix.diagonal().sum()) / (m * (m - 1))).item()


def doubt(logs: Logs) -> dict[str, Float64[Tensor, "n"]]:
    """Scores that are high where the ensemble is unsure.

    ``msp``: 1 - largest mean probability; ``entropy`` of the mean; ``mutual_information``: entropy
    of the mean minus mean entropy of the members, never below 0 but for rounding.
    """
    mean, logs = mixture(logs), logs.double()
    entropy = -(mean.exp() * mean).sum(1)
    inside = -(logs.exp() * logs).sum(2).mean(0)
    msp = 1 - mean.max(1).values.exp()
    return {"msp": msp, "entropy": entropy, "mutual_information": entropy - inside}


class Detection(NamedTuple):
    """How well a score detects strange inputs: area under the ROC, FPR at a TPR of 95 %."""

    auroc: float
    fpr95: float


def detect(inside: Float64[Tensor, "n"], outside: Float64[Tensor, "m"]) -> Detection:
    """Detection of the outside set as positive by a score that should be high there; ties 1/2."""
    inside, outside = inside.cpu(), outside.cpu()
    ordered = inside.sort().values
    below = torch.searchsorted(ordered, outside.contiguous(), right=False)
    not_above = torch.searchsorted(ordered, outside.contiguous(), right=True)
    auroc = ((below + not_above).double() / 2).mean() / len(inside)
    detected = math.ceil(0.95 * len(outside))
    limit = outside.sort(descending=True).values[detected - 1]
    return Detection(auroc.item(), (inside >= limit).double().mean().item())


def jaccard(masks: list[Bool[Tensor, "n"]]) -> Float64[Tensor, "members members"]:
    """Intersection over union of each two masks; 1 on the diagonal."""
    rows = [[(a & b).sum().double() / (a | b).sum().clamp(min=1) for b in masks] for a in masks]
    return torch.stack([torch.stack(row) for row in rows])
