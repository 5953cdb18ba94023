"""How every figure looks, and the files it becomes: PNG for the screen, SVG for print, its data.

Colours are those of Okabe and Ito, which any colour vision tells apart; a line has a dash and a
marker of its own too, so that a print in grey will do. Maps of colours are viridis for amounts and
red to blue for differences.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.ticker import FuncFormatter, LogLocator

Values = Sequence[Any] | np.ndarray  # None where there is none
DPI = 200
# of Okabe and Ito without yellow, which is too light for a line
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#56b4e9", "#e69f00")
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
AMOUNTS, DIFFERENCES = "viridis", "RdBu_r"
MARKED = 12  # points of a line that carry its marker, at most
LETTERS_AN_INCH = 11.5  # of a title of 11 points
STYLE: dict[Any, Any] = {
    "axes.grid": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.labelsize": 9,
    "axes.titlesize": 10,
    "figure.titlesize": 11,
    "grid.alpha": 0.3,
    "image.cmap": AMOUNTS,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "svg.hashsalt": "sextant",  # the same figure is the same file
    "text.parse_math": False,  # names that users gave are drawn as they are, a $ begins no formula
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}

styled = mpl.rc_context(STYLE)  # decorates functions that draw and save


def new(width: float | int, height: float | int, layout: Any = "constrained") -> Figure:
    """An empty figure.

    Args:
        width: in inches.
        height: in inches.
        layout: engine that keeps labels apart and inside of the figure.
    """
    return Figure(figsize=(width, height), dpi=DPI, layout=layout)


def line(axes: Axes, x: Values, y: Values, index: int, **style: Any) -> None:
    """Draw the ``index``-th line of a figure in its own colour, dash and marker.

    Args:
        axes: to draw into.
        x: of the points, in order.
        y: of the points.
        index: of the line in all panels of the figure, from 0.
        style: anything else that lines have, such as ``label``; it has the last word.
    """
    own: dict[str, Any] = {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 4,
        "markevery": max(1, -(-len(x) // MARKED)),
        "linewidth": 1.5,
    }
    axes.plot(x, y, **(own | style))


def title(figure: Figure, text: str) -> None:
    """Put what a figure shows, best as a finding, above it; broken into lines that fit."""
    figure.suptitle(fill(text, int(figure.get_figwidth() * LETTERS_AN_INCH)))


def log_scale(axes: Axes) -> None:
    """A logarithmic y axis with plain numbers at its ticks."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def cut(name: str, letters: int) -> str:
    """A name in at most so many letters, its end kept."""
    half = letters // 2
    return name if len(name) <= letters else f"{name[: letters - half - 1]}…{name[-half:]}"


def save(
    figure: Figure,
    path: Path,
    data: Sequence[Mapping[str, Any]] | None = None,
    *,
    vector: bool = True,
) -> None:
    """Write a figure as PNG and SVG, and its data as CSV; ``Run.figure`` hands them over.

    Args:
        figure: drawn in :data:`styled`.
        path: of the PNG; the other files stand beside it.
        data: rows of what is drawn, unless another file of the run holds it.
        vector: whether as SVG too; not where one job leaves thousands of pictures.
    """
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    if vector:
        figure.set_layout_engine("none")  # everything is in its place
        nobody = {"Date": None, "Creator": None}
        figure.savefig(path.with_suffix(".svg"), dpi=DPI, metadata=nobody)
    if data:
        with path.with_suffix(".csv").open("w", newline="") as file:
            table = csv.DictWriter(file, list(data[0]))
            table.writeheader()
            table.writerows(data)
