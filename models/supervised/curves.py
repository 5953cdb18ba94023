"""Picture of how trainings of one job went: loss and accuracy against training time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from models.core import figures

LOSS = ("loss", "training loss, mean of an epoch (nats)")


@figures.styled
def draw(
    path: Path,
    histories: Mapping[str, list[dict[str, Any]]],
    title: str,
    moments: Mapping[str, float] | None = None,
    levels: Mapping[str, float] | None = None,
) -> None:
    """Write a PNG of two panels: the loss, and the accuracy on the part that was watched.

    Args:
        path: of the PNG.
        histories: of each training by its name in the legend, rows of ``Fitted.history``.
        title: above both panels; :func:`finding` makes one.
        moments: what happened, and after how many seconds of training.
        levels: further accuracies by their names in the legend, such as that of an ensemble.
    """
    figure = figures.new(9, 4.1)
    first = next(iter(histories.values()))[-1]
    watched = "validation" if "validation_accuracy" in first else "test"
    panels = (LOSS, (f"{watched}_accuracy", f"{watched} accuracy (share of images)"))
    for axes, (column, label) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for index, (name, rows) in enumerate(histories.items()):
            _line(axes, index, name, rows, column, f"{watched}_accuracy")
        for what, seconds in (moments or {}).items():
            axes.axvline(seconds, color="0.7", linewidth=0.8, zorder=0)
            axes.annotate(what, (seconds, 0.02), xycoords=("data", "axes fraction"), rotation=90,
                          ha="right", va="bottom", fontsize=7, color="0.4")  # fmt: skip
        axes.set_xlabel("training time (s), without tests and checkpoints")
        axes.set_ylabel(label)
        axes.set_xlim(left=0)
        axes.grid(visible=True)
    for index, (name, accuracy) in enumerate((levels or {}).items(), len(histories)):
        style = {"color": figures.COLOURS[index], "linestyle": figures.DASHES[index]}
        axes.axhline(accuracy, **style, linewidth=1.2, label=f"{name}: {accuracy:.1%}")
    legend_entries = axes.get_legend_handles_labels()
    figure.legend(*legend_entries, loc="outside lower center", ncols=3)
    figures.title(figure, title)
    shown = ("epoch", "seconds", *(column for column, _ in panels))
    data = [
        {"training": name} | {column: row.get(column) for column in shown}
        for name, rows in histories.items()
        for row in rows
    ]
    figures.save(figure, path, data)


def _line(
    axes: Axes, index: int, name: str, rows: list[dict[str, Any]], column: str, accuracy: str
) -> None:
    last = rows[-1]
    seconds, values = [row["seconds"] for row in rows], [row[column] for row in rows]
    label = f"{name}: {last[accuracy]:.1%} after {last['seconds']:.1f} s"
    figures.line(axes, seconds, values, index, label=label)


def finding(net: str, data: str, histories: Mapping[str, list[dict[str, Any]]]) -> str:
    """What the trainings came to, as a title: the accuracy of the first, and against the others."""
    (_, first), *others = histories.items()
    watched = "validation" if "validation_accuracy" in first[-1] else "test"
    reached = first[-1][f"{watched}_accuracy"]
    summary = f"{net} on {data}: {reached:.1%} of the {watched} images right"
    summary += f" after {first[-1]['seconds']:.0f} s of training"
    if not others:
        return summary
    name, rows = others[0]
    gap = 100 * (reached - rows[-1][f"{watched}_accuracy"])
    share = 1 - first[-1]["seconds"] / rows[-1]["seconds"]
    time = f"{abs(share):.0%} {'less' if share > 0 else 'more'} time"
    return f"{summary}; {gap:+.1f} points and {time} than {name}"
