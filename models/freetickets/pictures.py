"""Pictures of a job: calibration, and how the tickets differ."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from models.core import figures
from models.freetickets.ensemble import Bins

SHOWN = {"ensemble": "ensemble", "ticket_mean": "single ticket, mean"}
MEMBER, TOGETHER = figures.COLOURS[:2]
COLOURS = {"ensemble": TOGETHER, "ticket_mean": MEMBER}
PAIRS = ("shown", "of", "and", "value")
HATCHES = {"ensemble": "", "ticket_mean": "///"}


@figures.styled
def reliability(path: Path, members: Sequence[Bins], ensemble: Bins) -> None:
    """Accuracy against confidence of each ticket and of the ensemble; counts below."""
    figure = figures.new(6, 6.6)
    above, below = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    above.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="calibrated")
    for index, member in enumerate(members):
        label = "single tickets" if index == 0 else None
        _points(above, member, color=MEMBER, linestyle="--", linewidth=1, marker="s", markersize=3,
                label=label)  # fmt: skip
    _points(above, ensemble, color=TOGETHER, linewidth=2, marker="o", label="ensemble")
    edges = ensemble.edges.numpy()
    width = edges[1] - edges[0]
    share = ensemble.counts.numpy() / ensemble.counts.sum().item()
    below.bar(edges[:-1], share, width=width, align="edge", color=TOGETHER, alpha=0.7)
    above.set_ylabel("accuracy (share of images)")
    above.legend(loc="upper left")
    below.set_ylabel("share of images")
    below.set_xlabel("confidence (largest probability)")
    below.set_xlim(0, 1)
    above.set_ylim(0, 1.02)
    mean = sum(member.ece for member in members) / len(members)
    summary = f"Calibration error {100 * ensemble.ece:.1f} points for the ensemble"
    figures.title(figure, f"{summary}, {100 * mean:.1f} for a single ticket on average")
    figures.save(figure, path, _rows(members, ensemble))


def _rows(members: Sequence[Bins], ensemble: Bins) -> list[dict[str, Any]]:
    """What the picture shows, a row a bin that holds images."""
    named = [(f"ticket {number}", bins) for number, bins in enumerate(members)]
    return [
        {"who": who, "images": int(count), "confidence": sure.item(), "accuracy": right.item()}
        for who, bins in [*named, ("ensemble", ensemble)]
        for count, sure, right in zip(bins.counts, bins.confidence, bins.accuracy, strict=True)
        if count
    ]


def _points(axes: Axes, bins: Bins, **style: object) -> None:
    filled = bins.counts > 0
    axes.plot(bins.confidence[filled], bins.accuracy[filled], **style)  # ty: ignore[invalid-argument-type]


@figures.styled
def diversity(
    path: Path, densities: Mapping[str, float], iou: Tensor | None, differ: Tensor
) -> None:
    """Share of active weights of each layer; overlap of masks and disagreement of tickets.

    Args:
        path: of the PNG.
        densities: by name of the layer, in order.
        iou: overlap [m, m] of each two masks; None where nothing is masked.
        differ: share [m, m] of test images on which two tickets disagree.
    """
    matrices = [(differ, "predictions that differ", "share of test images")]
    if iou is not None:
        matrices.insert(0, (iou, "masks in common", "intersection / union"))
    wide = max(6.0, 0.22 * len(densities) + 1.5)
    figure = figures.new(wide + 3.6 * len(matrices), 4.2)
    axes = figure.subplots(1, 1 + len(matrices), width_ratios=[wide, *[3.6] * len(matrices)])
    bars, *maps = axes
    names = list(densities)
    bars.bar(range(len(names)), list(densities.values()), color=MEMBER)
    bars.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    bars.set_ylabel("active weights (share of the layer)")
    bars.set_ylim(0, 1.02)
    bars.grid(visible=True, axis="y")
    for panel, (matrix, title, unit) in zip(maps, matrices, strict=True):
        _matrix(figure, panel, matrix.numpy(), title, unit)
    m = len(differ)
    share = differ.sum().item() / max(1, m * (m - 1))
    summary = f"Two of {m} tickets name another class for {share:.1%} of the test images"
    figures.title(figure, summary if m > 1 else "Active weights of a single ticket")
    rows: list[tuple[Any, ...]] = [
        ("active weights", name, "", share) for name, share in densities.items()
    ]
    rows += [
        (title, i, j, matrix[i, j].item())
        for matrix, title, _ in matrices
        for i in range(m)
        for j in range(m)
    ]
    figures.save(figure, path, [dict(zip(PAIRS, row, strict=True)) for row in rows])


@figures.styled
def corrupted(path: Path, results: Mapping[str, Any], clean: Mapping[str, float]) -> None:
    """Accuracy by severity, and by corruption over all severities: ensemble and mean ticket.

    Args:
        path: of the PNG.
        results: of ``evaluate.under_shift``, with ``by_severity`` and ``by_corruption``.
        clean: accuracy on the test images as they are.
    """
    figure = figures.new(10, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=(1, 2), sharey=True)
    names = list(results["by_corruption"])
    for index, (who, label) in enumerate(SHOWN.items()):
        rows = [row[who]["accuracy"] for row in results["by_severity"].values()]
        style = {"color": COLOURS[who], "label": label}
        figures.line(left, range(6), [clean[who], *rows], 1 - index, label=label)
        means = [results["by_corruption"][name][who]["accuracy"] for name in names]
        places = [i + 0.4 * index - 0.2 for i in range(len(names))]
        right.bar(places, means, width=0.4, hatch=HATCHES[who], edgecolor="white", **style)
    left.set_xlabel("severity (0: clean), mean over corruptions")
    left.set_ylabel("accuracy (share of images)")
    left.set_ylim(0, 1.02)
    left.legend(loc="lower left")
    right.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=90)
    right.set_xlabel("corruption, mean over severities 1 to 5")
    for axes in (left, right):
        axes.grid(visible=True, axis="y")
    worst = list(results["by_severity"].values())[-1]
    gains = [
        100 * (row["ensemble"]["accuracy"] - row["ticket_mean"]["accuracy"])
        for row in ({who: {"accuracy": clean[who]} for who in SHOWN}, worst)
    ]
    summary = f"{gains[0]:+.1f} points on clean images, {gains[1]:+.1f} at severity 5"
    figures.title(figure, f"The ensemble against a single ticket: {summary}")
    figures.save(figure, path)


def _matrix(figure: Figure, axes: Axes, values: np.ndarray, title: str, unit: str) -> None:
    """A square of numbers between tickets; the diagonal, known beforehand, is left blank."""
    m = len(values)
    shown = np.ma.masked_array(values, mask=np.eye(m, dtype=bool))
    top = float(shown.max()) if m > 1 else 1.0
    image = axes.imshow(shown, vmin=0, vmax=top or 1.0, cmap=figures.AMOUNTS)
    for i, j in np.argwhere(~np.eye(m, dtype=bool)):
        dark = values[i, j] < 0.6 * (top or 1.0)
        axes.text(j, i, f"{values[i, j]:.3f}", ha="center", va="center", color="w" if dark else "k")
    axes.set_title(title, fontsize=10)
    axes.set_xticks(range(m))
    axes.set_yticks(range(m))
    axes.set_xlabel("ticket")
    axes.set_ylabel("ticket")
    figure.colorbar(image, ax=axes, label=unit, shrink=0.7)
