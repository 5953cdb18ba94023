"""Pictures of what a classifier does: which classes it confuses, what its confidence is worth."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from models.core import figures
from models.supervised.evaluate import ECE_BINS, calibration_bins, calibration_error

NAMED = 40  # classes whose names fit beside the matrix
COLUMNS = ("images", "confidence", "accuracy")
COUNTED = 15  # classes whose counts fit into its cells


@figures.styled
def confusion(path: Path, counts: Int64[Tensor, "classes classes"], classes: Sequence[str]) -> None:
    """Share of the images of each true class (row) that is taken for each class (column).

    Args:
        path: of the PNG.
        counts: of images.
        classes: their names.
    """
    shares = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    side = min(14.0, 4.0 + 0.28 * min(len(classes), NAMED))
    figure = figures.new(1.15 * side, side)  # room for the bar of colours
    axes = figure.subplots()
    shown = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= NAMED:
        names = [figures.cut(name, 24) for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=90)
        axes.set_yticks(range(len(classes)), names)
    if len(classes) <= COUNTED:
        for (row, column), count in zip(
            torch.cartesian_prod(*[torch.arange(len(classes))] * 2).tolist(),
            counts.flatten().tolist(),
            strict=True,
        ):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    right, total = int(counts.diagonal().sum()), int(counts.sum())
    axes.spines[:].set_visible(True)
    figure.colorbar(shown, ax=axes, shrink=0.7, label="share of the images of the true class")
    figures.title(figure, f"{right:,} of {total:,} test images are classified right")
    figures.save(figure, path)


@figures.styled
def calibration(
    path: Path, log_probs: Float[Tensor, "n classes"], labels: Int64[Tensor, "n"]
) -> None:
    """Accuracy against confidence in equal bins, and the share of test images in each.

    Args:
        path: of the PNG.
        log_probs: of the test images.
        labels: of the test images.
    """
    counts, confidence, accuracy = (x.numpy() for x in calibration_bins(log_probs, labels))
    filled = counts > 0
    figure = figures.new(5.6, 6)
    above, below = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    above.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="calibrated")
    error = 100 * calibration_error(log_probs, labels)
    figures.line(above, confidence[filled], accuracy[filled], 0, label="test images")
    width = 1 / ECE_BINS
    edges = [k * width for k in range(ECE_BINS)]
    below.bar(edges, counts / len(labels), width=width, align="edge", alpha=0.7)
    gap = ((accuracy - confidence) * counts).sum() / len(labels)
    compared = f"{100 * abs(gap):.1f} points {'more' if gap < 0 else 'less'} than it is right"
    figures.title(
        figure,
        f"On {len(labels):,} test images the net is sure {compared} (ECE {error:.1f} points)",
    )
    above.set_ylabel("accuracy (share of images)")
    above.set_ylim(0, 1.02)
    above.legend(loc="upper left")
    below.set_ylabel("share of images")
    below.set_xlabel("confidence (largest probability)")
    below.set_xlim(0, 1)
    rows = zip(counts[filled], confidence[filled], accuracy[filled], strict=True)
    figures.save(figure, path, [dict(zip(COLUMNS, row, strict=True)) for row in rows])
