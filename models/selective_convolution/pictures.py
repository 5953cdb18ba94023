"""Picture of what became of the slots of a net: over the rounds, in each unit, and their shifts."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from models.core import figures
from models.nets.selective.unit import GatedUnit, SelectiveUnit
from models.selective_convolution.rounds import COLUMNS

COLOURS = {"own channel": "#c6d4e1", "copy": "#d55e00", "closed": "#303030"}
DEPTHS = figures.AMOUNTS


@figures.styled
def draw(
    path: Path,
    units: Mapping[str, GatedUnit],
    record: Float[np.ndarray, "rounds units columns"],
    named: str,
) -> None:
    """Write a PNG of three panels.

    Args:
        path: of the PNG.
        units: after the training, in the order of the net.
        record: of :class:`Rounds`, the rounds done.
        named: net, data and threshold, for the title.
    """
    figure = figures.new(13, 4.2)
    over_time, by_unit, shifts = figure.subplots(1, 3, width_ratios=(1, 1.5, 1.05))
    sizes = np.array([len(unit.gate) for unit in units.values()])
    _over_time(over_time, record, sizes)
    _by_unit(by_unit, list(units.values()), sizes)
    _shifts(shifts, list(units.values()))
    norm = Normalize(1, max(2, len(units)))
    figure.colorbar(ScalarMappable(norm, DEPTHS), ax=shifts, label="unit, from input to output")
    handles, labels = by_unit.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, title="what a slot reads")
    copies = sum(_copied(unit).sum() for unit in units.values())
    closed = sum((unit.gate == 0).sum().item() for unit in units.values())
    of_all = f"of {sizes.sum():,} slots {copies:,} read another channel, {closed:,} are closed"
    figures.title(figure, f"{named}: {of_all}")
    figures.save(figure, path)


def _over_time(axes: Axes, record: np.ndarray, sizes: np.ndarray) -> None:
    """Shares of all slots after each round; before the first, all read their own channel."""
    total = sizes.sum()
    copies = 100 * np.r_[0, record[:, :, COLUMNS.index("copies")].sum(1)] / total
    closed = 100 * (1 - np.r_[total, record[:, :, COLUMNS.index("open")].sum(1)] / total)
    rounds = np.arange(len(copies))
    shares = {"closed": closed, "copy": copies, "own channel": 100 - copies - closed}
    axes.stackplot(rounds, *shares.values(), colors=[COLOURS[name] for name in shares], step="post")
    axes.set_xlim(0, max(1, rounds[-1]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(0, 100)
    axes.set_xlabel("rounds of allocation done")
    axes.set_ylabel("slots of all units (%)")
    axes.set_title("over training", fontsize=10)


def _by_unit(axes: Axes, units: list[GatedUnit], sizes: np.ndarray) -> None:
    """Shares of the slots of each unit at the end."""
    closed = np.array([(unit.gate == 0).sum().item() for unit in units])
    copies = np.array([_copied(unit).sum() for unit in units])
    shares = {"closed": closed, "copy": copies, "own channel": sizes - closed - copies}
    positions, bottom = np.arange(1, len(units) + 1), np.zeros(len(units))
    for name, count in shares.items():
        height = 100 * count / sizes
        axes.bar(positions, height, 0.9, bottom, color=COLOURS[name], label=name)
        bottom += height
    axes.set_xlim(0.4, len(units) + 0.6)
    axes.set_ylim(0, 100)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("unit, from input to output")
    axes.set_ylabel("slots of the unit (%)")
    axes.set_title("at the end of training", fontsize=10)


def _shifts(axes: Axes, units: list[GatedUnit]) -> None:
    """Where copies read, relative to the pixel that they stand for."""
    points = [
        (index, x, y)
        for index, unit in enumerate(units, 1)
        if isinstance(unit, SelectiveUnit)
        for x, y in unit.shift.detach().cpu().numpy()[_copied(unit)]
    ]
    index, x, y = np.array(points, dtype=float).reshape(-1, 3).T
    axes.scatter(x, y, 12, index, cmap=DEPTHS, vmin=1, vmax=max(2, len(units)), alpha=0.8, lw=0)
    reach = 1.1 * max(1.5, np.abs(np.r_[x, y]).max(initial=0))
    axes.set_xlim(-reach, reach)
    axes.set_ylim(reach, -reach)  # images count rows downwards
    axes.set_aspect("equal")
    axes.axhline(0, color="0.7", lw=0.8, zorder=0)
    axes.axvline(0, color="0.7", lw=0.8, zorder=0)
    axes.set_xlabel("shift along the width (pixels)")
    axes.set_ylabel("shift along the height (pixels)")
    axes.set_title(f"shifts of the {len(points)} copies", fontsize=10)


def _copied(unit: GatedUnit) -> np.ndarray:
    """Which slots read another channel."""
    if not isinstance(unit, SelectiveUnit):
        return np.zeros(len(unit.gate), bool)
    return (unit.source >= 0).cpu().numpy()
