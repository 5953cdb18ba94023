"""Readings of gauges over time as a picture."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.terrain.solver.gauges import Readings

# of Okabe and Ito without yellow; lines of a further round are dashed, dotted
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#56b4e9", "#e69f00")
STYLES = ("-", "--", ":")
PANELS = {
    "stage_m": "level (m)",
    "depth_m": "depth (m)",
    "speed_m_s": "speed (m/s)",
    "discharge_m3_s": "discharge over the line (m³/s)",
}


def draw(path: Path, readings: Readings) -> None:
    """Write a PNG: a panel a quantity, a line a gauge, over hours.

    Args:
        path: of the PNG.
        readings: of at least one gauge.
    """
    table = dict(zip(readings.columns, np.array(readings.rows).T, strict=True))
    hours = np.array(readings.times) / 3600
    shown = [what for what in PANELS if any(name.endswith(f" {what}") for name in table)]
    figure = Figure(figsize=(8, 2.2 * len(shown) + 0.6), dpi=120, layout="constrained")
    axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axis, what in zip(axes, shown, strict=True):
        for k, station in enumerate(readings.stations):
            if (name := f"{station.name} {what}") in table:
                style = STYLES[k // len(COLOURS) % len(STYLES)]
                colour = COLOURS[k % len(COLOURS)]
                axis.plot(hours, table[name], style, color=colour, lw=1.4, label=station.name)
        _finish(axis, PANELS[what])
    axes[-1].set_xlabel("time (h)")
    figure.savefig(path, metadata={"Software": None})


def _finish(axis: Axes, label: str) -> None:
    axis.set_ylabel(label, fontsize=9)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
