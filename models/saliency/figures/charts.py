"""Charts of graders and of agreement: curves, heat maps, contact sheets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from models.saliency.figures.maps import BAR_LETTERS, Style
from models.saliency.spec.methods import NO_BASELINE

MOST_PANELS = 24
STYLES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))  # of baselines


class _Line(NamedTuple):
    """A curve with the method and the baseline of its map."""

    method: str
    baseline: str
    points: Sequence[tuple[float, float]]


def curves(path: Path, curves: Mapping[Any, Sequence[tuple[float, float]]]) -> None:
    """Draw a panel for each image and grader, at most 24, with the first and last state marked.

    The colour shows the method, the line style the baseline of the map; only the first seed is
    drawn. All panels of an image share one scale, and all panels one legend.

    Args:
        path: of the PNG.
        curves: by (key of the map, grader), pairs of the share replaced and the score.
    """
    panels = _panels(curves)
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(6.4 * columns, 3.4 * rows + 0.8), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    lines = [line for panel in panels.values() for line in panel]
    methods, baselines = (
        list(dict.fromkeys(getattr(line, name) for line in lines))
        for name in ("method", "baseline")
    )
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, ((image, grader), panel) in zip(axes, panels.items(), strict=False):
        for line in panel:
            _draw(axis, line, methods, baselines)
        axis.set_ylim(*_limits(panels, image))
        axis.set_title(f"{image}: {grader}", fontsize=9)
        axis.set_xlabel("share of pixels swapped")
        axis.set_ylabel("score of the class")
        axis.grid(alpha=0.3)
    figure.legend(
        handles=_legend(methods, baselines), loc="outside lower center", ncols=4, fontsize=8
    )
    figure.savefig(path, metadata={"Software": None})


def _panels(curves: Mapping[Any, Sequence[tuple[float, float]]]) -> dict[tuple[str, str], list]:
    panels: dict[tuple[str, str], dict[tuple[str, str], _Line]] = {}
    for (key, grader), points in curves.items():
        if points:
            panel = panels.setdefault((key.image, grader), {})
            panel.setdefault((key.method, key.baseline), _Line(key.method, key.baseline, points))
    first = list(panels.items())[:MOST_PANELS]
    return {name: list(lines.values()) for name, lines in first}


def _limits(panels: dict[tuple[str, str], list], image: str) -> tuple[float, float]:
    """Limits of the score axis: the range of all curves of an image, with a margin."""
    chosen = [line for (name, _), panel in panels.items() if name == image for line in panel]
    scores = [score for line in chosen for _, score in line.points]
    margin = 0.05 * (max(scores) - min(scores)) or 0.05
    return min(scores) - margin, max(scores) + margin


def _draw(axis: Axes, line: _Line, methods: list[str], baselines: list[str]) -> None:
    x, y = np.array(line.points).T
    colour = _colour(methods, line.method)
    style = STYLES[baselines.index(line.baseline) % len(STYLES)]
    axis.plot(x, y, linewidth=1.2, color=colour, linestyle=style)
    axis.plot(x[[0, -1]], y[[0, -1]], "o", color=colour, markersize=4)


def _colour(methods: list[str], method: str) -> Any:
    table = colormaps["tab10" if len(methods) <= 10 else "tab20"]
    return table(methods.index(method) % table.N)


def _legend(methods: list[str], baselines: list[str]) -> list[Line2D]:
    colours = [Line2D([], [], color=_colour(methods, name), label=name) for name in methods]
    styles = [
        Line2D([], [], color="black", linestyle=STYLES[index % len(STYLES)], label=f"map: {name}")
        for index, name in enumerate(baselines)
    ]
    return colours + styles


def heat_map(
    path: Path, values: Float[np.ndarray, "n n"], names: list[str], title: str, label: str
) -> None:
    """Draw a matrix on a scale from -1 to 1, with every number in its cell.

    Args:
        path: of the PNG.
        values: the matrix.
        names: of its rows and columns.
        title: of the figure.
        label: of the colour bar.
    """
    side = 1.6 + 0.52 * len(names)
    figure = Figure(figsize=(side + 1.6, side), dpi=110, layout="constrained")
    axis = figure.subplots()
    shown = axis.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
    axis.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    for (i, j), value in np.ndenumerate(values):
        colour = "white" if abs(value) > 0.6 else "black"
        text = "-" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}"  # no minus zero
        axis.text(j, i, text, ha="center", va="center", fontsize=6, color=colour)
    figure.colorbar(shown, ax=axis, shrink=0.8, label=label)
    axis.set_title(title, fontsize=10)
    figure.savefig(path, metadata={"Software": None})


def contact_sheet(
    path: Path,
    maps: Mapping[tuple[str, str], Float[np.ndarray, "h w"]],
    image: Float[np.ndarray, "h w c"],
    title: str,
    styles: Mapping[str, Style],
) -> None:
    """Draw maps by method (rows) and baseline (columns), with one scale per row.

    Args:
        path: of the PNG.
        maps: by (method, baseline).
        image: values in [0, 1], drawn grey beneath the maps.
        title: of the figure.
        styles: how the maps of each method are drawn; by default as differences.
    """
    methods = list(dict.fromkeys(method for method, _ in maps))
    baselines = [name for name in dict.fromkeys(name for _, name in maps) if name != NO_BASELINE]
    baselines = baselines or [NO_BASELINE]
    size = (1.75 * len(baselines) + 1.5, 2.0 * len(methods) + 0.5)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    axes = figure.subplots(len(methods), len(baselines), squeeze=False)
    grey = image.mean(2)
    for row, method in zip(axes, methods, strict=True):
        drawn = [values for (name, _), values in maps.items() if name == method]
        style = styles.get(method, Style(method, "value of the map", signed=True, within=1.0))
        norm, colours = style.scale(drawn), style.colours("RdBu_r")
        for axis, name in zip(row, baselines, strict=True):
            axis.set_axis_off()
            own = maps.get((method, name))
            if own is None and name == baselines[0]:  # a method without a baseline
                name, own = "no baseline", maps.get((method, NO_BASELINE))
            if own is None:
                continue
            axis.imshow(grey, cmap="gray", vmin=0, vmax=1)
            axis.imshow(own, cmap=colours, norm=norm, alpha=0.65)
            axis.set_title(name, fontsize=7)
        words = method if style.described == method else f"{method}: {style.described}"
        head = row[0].set_title(f"{words}\n", fontsize=8, loc="left")
        head.set_in_layout(False)  # may extend over the next titles, whose first line is empty
        shown = ScalarMappable(norm, colours)
        bar = figure.colorbar(shown, ax=list(row), shrink=0.8, extend=style.ends)
        bar.set_label(fill(style.quantity, BAR_LETTERS), fontsize=6)
        bar.ax.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, metadata={"Software": None})
