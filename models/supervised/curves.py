"""Picture of how trainings of one job went: loss and test accuracy against training time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

PANELS = (
    ("loss", "training loss, mean of an epoch (nats)"),
    ("test_accuracy", "test accuracy (share of images)"),
)


def draw(path: Path, histories: Mapping[str, list[dict[str, Any]]], title: str) -> None:
    """Write a PNG of two panels.

    Args:
        path: of the PNG.
        histories: of each training by its name in the legend, rows of ``Fitted.history``.
        title: above both panels.
    """
    figure = Figure(figsize=(9, 4.1), dpi=120, layout="constrained")
    for axes, (column, label) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for name, rows in histories.items():
            _line(axes, name, rows, column)
        axes.set_xlabel("training time (s), without tests and checkpoints")
        axes.set_ylabel(label)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    legend_entries = axes.get_legend_handles_labels()
    figure.legend(*legend_entries, loc="outside lower center", ncols=3, fontsize=8.5, frameon=False)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, metadata={"Software": None})


def _line(axes: Axes, name: str, rows: list[dict[str, Any]], column: str) -> None:
    last = rows[-1]
    (line,) = axes.plot(
        [row["seconds"] for row in rows],
        [row[column] for row in rows],
        marker="o",
        markersize=3,
        label=f"{name}: {last['test_accuracy']:.1%} after {last['seconds']:.1f} s",
    )
    axes.plot(last["seconds"], last[column], "o", color=line.get_color(), markersize=6)
