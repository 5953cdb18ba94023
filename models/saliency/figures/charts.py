"""Charts of graders and of agreement: curves, heat maps, contact sheets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.lines import Line2D

from models.core import figures
from models.saliency.figures.maps import BAR_LETTERS, Style
from models.saliency.spec.methods import NO_BASELINE

MOST_PANELS = 24
STYLES = (*figures.DASHES, (0, (1, 3)), (0, (8, 3)))  # of baselines


class _Line(NamedTuple):
    """A curve with the method and the baseline of its map."""

    method: str
    baseline: str
    points: Sequence[tuple[float, float]]


@figures.styled
def curves(path: Path, curves: Mapping[Any, Sequence[tuple[float, float]]]) -> None:
    """Draw a panel for each image and grader, at most 24.

    Colour and marker show the method, the line style the baseline of the map; only the first seed
    is drawn. All panels of an image share one scale, and all panels one legend.

    Args:
        path: of the PNG.
        curves: by (key of the map, grader), pairs of the share replaced and the score.
    """
    panels = _panels(curves)
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = figures.new(6.0 * columns, 3.2 * rows + 1.1)
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
        axis.set_title(f"{image}: {grader}")
        axis.set_xlabel("share of pixels swapped")
        axis.set_ylabel("score of the class")
        axis.grid(visible=True)
    figure.legend(handles=_legend(methods, baselines), loc="outside lower center", ncols=4)
    figures.title(figure, "Score of the class while pixels are swapped in the order of each map")
    figures.save(figure, path)


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
    style = STYLES[baselines.index(line.baseline) % len(STYLES)]
    figures.line(axis, x, y, methods.index(line.method), linestyle=style, linewidth=1.2)


def _legend(methods: list[str], baselines: list[str]) -> list[Line2D]:
    colours = [
        Line2D(
            [],
            [],
            color=figures.COLOURS[index % len(figures.COLOURS)],
            marker=figures.MARKERS[index % len(figures.MARKERS)],
            label=name,
        )
        for index, name in enumerate(methods)
    ]
    styles = [
        Line2D([], [], color="black", linestyle=STYLES[index % len(STYLES)], label=f"map: {name}")
        for index, name in enumerate(baselines)
    ]
    return colours + styles


@figures.styled
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
    side = max(3.2, 1.6 + 0.52 * len(names))
    figure = figures.new(side + 1.6, side + 0.3)
    axis = figure.subplots()
    shown = axis.imshow(values, cmap=figures.DIFFERENCES, vmin=-1, vmax=1)
    axis.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    for (i, j), value in np.ndenumerate(values):
        colour = "white" if abs(value) > 0.6 else "black"
        text = "-" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}"  # no minus zero
        axis.text(j, i, text, ha="center", va="center", fontsize=6, color=colour)
    figure.colorbar(shown, ax=axis, shrink=0.8, label=label)
    axis.spines[:].set_visible(True)
    figures.title(figure, title)
    rows = [
        {"row": names[i], "column": names[j], "value": None if np.isnan(value) else float(value)}
        for (i, j), value in np.ndenumerate(values)
    ]
    figures.save(figure, path, rows)


@figures.styled
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
    figure = figures.new(*size)
    axes = figure.subplots(len(methods), len(baselines), squeeze=False)
    grey = image.mean(2)
    for row, method in zip(axes, methods, strict=True):
        drawn = [values for (name, _), values in maps.items() if name == method]
        style = styles.get(method, Style(method, "value of the map", signed=True, within=1.0))
        norm, colours = style.scale(drawn), style.colours(figures.DIFFERENCES)
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
    figures.title(figure, title)
    figures.save(figure, path)
