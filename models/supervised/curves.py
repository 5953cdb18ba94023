"""Picture of how trainings of one job went: loss and accuracy against training time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

LOSS = ("loss", "training loss, mean of an epoch (nats)")


def draw(path: Path, histories: Mapping[str, list[dict[str, Any]]], title: str) -> None:
    """Write a PNG of two panels: the loss, and the accuracy on the part that was watched.

    Args:
        path: of the PNG.
        histories: of each training by its name in the legend, rows of ``Fitted.history``.
        title: above both panels.
    """
    figure = Figure(figsize=(9, 4.1), dpi=120, layout="constrained")
    first = next(iter(histories.values()))[-1]
    watched = "validation" if "validation_accuracy" in first else "test"
    panels = (LOSS, (f"{watched}_accuracy", f"{watched} accuracy (share of images)"))
    for axes, (column, label) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name, rows in histories.items():
            _line(axes, name, rows, column, f"{watched}_accuracy")
        axes.set_xlabel("training time (s), without tests and checkpoints")
        axes.set_ylabel(label)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    legend_entries = axes.get_legend_handles_labels()
    figure.legend(*legend_entries, loc="outside lower center", ncols=3, fontsize=8.5, frameon=False)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, metadata={"Software": None})


def _line(axes: Axes, name: str, rows: list[dict[str, Any]], column: str, accuracy: str) -> None:
    last = rows[-1]
    (line,) = axes.plot(
        [row["seconds"] for row in rows],
        [row[column] for row in rows],
        marker="o",
        markersize=3,
        label=f"{name}: {last[accuracy]:.1%} after {last['seconds']:.1f} s",
    )
    axes.plot(last["seconds"], last[column], "o", color=line.get_color(), markersize=6)
