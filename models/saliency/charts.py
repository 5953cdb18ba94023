"""Charts of graders and of agreement: curves, heat maps, contact sheets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure

MOST_CURVES, MOST_PANELS = 12, 24


def curves(path: Path, found: Mapping[Any, Sequence[tuple[float, float]]]) -> None:
    """A panel for each image and grader, at most 24; the end states are marked.

    Args:
        path: of the PNG.
        found: by (key of the map, grader), pairs of the share swapped and the score.
    """
    panels: dict[tuple[str, str], dict[str, Any]] = {}
    for (key, grader), points in found.items():
        lines = panels.setdefault((key.image, grader), {})
        if len(lines) < MOST_CURVES and points:
            lines[f"{key.method}, {key.baseline}, seed {key.seed}"] = points
    panels = dict(list(panels.items())[:MOST_PANELS])
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(6.4 * columns, 3.6 * rows), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, ((image, grader), lines) in zip(axes, panels.items(), strict=False):
        for name, points in lines.items():
            x, y = np.array(points).T
            (line,) = axis.plot(x, y, linewidth=1.2, label=name)
            axis.plot(x[[0, -1]], y[[0, -1]], "o", color=line.get_color(), markersize=5)
        axis.set_title(f"{image}: {grader}", fontsize=9)
        axis.set_xlabel("share of pixels swapped")
        axis.set_ylabel("score of the class")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=6)
    figure.savefig(path, metadata={"Software": None})


def heat_map(
    path: Path, values: Float[np.ndarray, "n n"], names: list[str], title: str, label: str
) -> None:
    """A matrix on the scale from -1 to 1, every number written in it."""
    side = 1.6 + 0.52 * len(names)
    figure = Figure(figsize=(side + 1.6, side), dpi=110, layout="constrained")
    axis = figure.subplots()
    shown = axis.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
    axis.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    for (i, j), value in np.ndenumerate(values):
        colour = "white" if abs(value) > 0.6 else "black"
        text = "-" if np.isnan(value) else f"{value:.2f}"
        axis.text(j, i, text, ha="center", va="center", fontsize=6, color=colour)
    figure.colorbar(shown, ax=axis, shrink=0.8, label=label)
    axis.set_title(title, fontsize=10)
    figure.savefig(path, metadata={"Software": None})


def contact_sheet(
    path: Path,
    maps: Mapping[tuple[str, str], Float[np.ndarray, "h w"]],
    image: Float[np.ndarray, "h w c"],
    title: str,
) -> None:
    """Methods down, baselines across; each row on one scale centred at zero.

    Args:
        path: of the PNG.
        maps: by (method, baseline).
        image: values in [0, 1], drawn grey beneath the maps.
        title: above all.
    """
    methods = list(dict.fromkeys(method for method, _ in maps))
    baselines = [name for name in dict.fromkeys(name for _, name in maps) if name != "none"]
    baselines = baselines or ["none"]
    size = (1.75 * len(baselines) + 1.9, 1.85 * len(methods) + 0.5)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    axes = figure.subplots(len(methods), len(baselines), squeeze=False)
    grey = image.mean(2)
    for row, method in zip(axes, methods, strict=True):
        drawn = [values for (name, _), values in maps.items() if name == method]
        norm = CenteredNorm(0, max(float(np.abs(values).max()) for values in drawn) or 1.0)
        for axis, name in zip(row, baselines, strict=True):
            axis.set_axis_off()
            own = maps.get((method, name))
            if own is None and name == baselines[0]:  # a method without a baseline
                name, own = "no baseline", maps.get((method, "none"))
            if own is None:
                continue
            axis.imshow(grey, cmap="gray", vmin=0, vmax=1)
            axis.imshow(own, cmap="RdBu_r", norm=norm, alpha=0.65)
            axis.set_title(f"{method}\n{name}", fontsize=7)
        figure.colorbar(ScalarMappable(norm, "RdBu_r"), ax=list(row), shrink=0.8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, metadata={"Software": None})
