"""Readings of gauges over time as a picture."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from models.core import figures
from models.terrain.solver.gauges import Readings

PANELS = {
    "stage_m": "level (m)",
    "depth_m": "depth (m)",
    "speed_m_s": "speed (m/s)",
    "discharge_m3_s": "discharge over the line (m³/s)",
}


@figures.styled
def draw(path: Path, readings: Readings) -> None:
    """Write a PNG: a panel a quantity, a line a gauge, over hours.

    Args:
        path: of the PNG.
        readings: of at least one gauge.
    """
    table = dict(zip(readings.columns, np.array(readings.rows).T, strict=True))
    hours = np.array(readings.times) / 3600
    shown = [what for what in PANELS if any(name.endswith(f" {what}") for name in table)]
    figure = figures.new(8, 2.2 * len(shown) + 0.9)
    axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axis, what in zip(axes, shown, strict=True):
        for k, station in enumerate(readings.stations):
            if (name := f"{station.name} {what}") in table:
                figures.line(axis, hours, table[name], k, label=figures.cut(station.name, 40))
        _finish(axis, PANELS[what])
    axes[-1].set_xlabel("time (h)")
    figures.title(figure, _finding(readings))
    figures.save(figure, path)


def _finish(axis: Axes, label: str) -> None:
    axis.set_ylabel(label, fontsize=9)
    axis.grid(visible=True)
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _finding(readings: Readings) -> str:
    """The greatest reading of the first quantity there is, and when it came."""
    values = np.array(readings.rows, dtype=float)
    for what, words in PANELS.items():
        own = [k for k, name in enumerate(readings.columns) if name.endswith(f" {what}")]
        if own and np.isfinite(values[:, own]).any():
            time, gauge = np.unravel_index(np.nanargmax(values[:, own]), (len(values), len(own)))
            name = readings.columns[own[gauge]].removesuffix(f" {what}")
            reached = f"{values[time, own[gauge]]:.3g} {words[words.index('(') + 1 : -1]}"
            hours = readings.times[time] / 3600
            return f"Greatest {words.partition(' (')[0]}: {reached} at {name} after {hours:.2g} h"
    return "No reading at any gauge"
