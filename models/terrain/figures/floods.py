"""Pictures of terrains and floods: hillshade, depth over it, differences, extents, scale bars."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LightSource, ListedColormap, Normalize, PowerNorm, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

from models.core import figures
from models.terrain.figures.maps import LONGEST, BaseMap

PANEL_INCHES, COLUMNS = 3.0, 4
# from a blue that stands out from the hillshade; shallower water is not drawn
WATER, SHOWN_M = ListedColormap(colormaps["Blues"](np.linspace(0.3, 1, 256))), 0.02
DIFFERENCE, LEAST_GAP_M = "RdBu", 1e-3
HEIGHT = colormaps["cividis"]  # perceptually uniform, the same to any colour vision
SPREAD = ListedColormap(colormaps["inferno_r"](np.linspace(0.1, 0.95, 256)))  # of other fields
BRIGHTEST = 1.2  # above the hillshade's 1, so that no ground is as white as a gap in the data
PALER = 0.8  # below the hillshade's 0, so that what lies on the ground stands out from it
SHALLOW = 0.5  # power of the scale of depths: most water is shallow, and has most of the colours
# of Okabe and Ito, told apart with any colour vision and by their lightness
EXTENTS = (("hit", "#0072b2"), ("miss", "#d55e00"), ("false alarm", "#f0e442"))
Field = Float[np.ndarray, "ny nx"]


class Panel(NamedTuple):
    """A field on its own grid and its title."""

    title: str
    values: np.ndarray


class Scale(NamedTuple):
    """A field with a scale of its own, its title and its unit; what is not above 0 is not drawn."""

    title: str
    unit: str
    values: np.ndarray


def hillshade(base_map: BaseMap) -> Float[np.ndarray, "ny nx"]:
    """Hillshade lit from the north-west, 0 to 1; the relief of flat ground is exaggerated."""
    z = sampled(base_map.z)
    dx = base_map.dx * base_map.z.shape[1] / z.shape[1]
    relief = float(np.percentile(z, 98) - np.percentile(z, 2)) or 1.0
    stretch = 0.12 * min(z.shape) * dx / relief
    shade = LightSource(315, 45).hillshade(z, stretch, dx, dx)
    return np.where(sampled(base_map.missing), np.nan, shade)


def sampled(values: np.ndarray) -> np.ndarray:
    """Every k-th row and column of a field larger than a picture shows."""
    step = -(-max(values.shape) // LONGEST)
    return values[::step, ::step]


def _grid(
    count: int, base_map: BaseMap, columns: int = COLUMNS, more_width: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """A figure and its panels; ``more_width``: inches a panel more, for a colour bar of its own."""
    left, right, bottom, top = base_map.shown
    shape = abs(top - bottom) / base_map.aspect, abs(right - left)
    rows = math.ceil(count / columns)
    columns = math.ceil(count / rows)
    tall = PANEL_INCHES * min(2.0, max(0.4, shape[0] / shape[1]))
    size = ((PANEL_INCHES + more_width) * columns + 1.6, (tall + 0.45) * rows + 0.8)
    figure = figures.new(*size, layout=ConstrainedLayoutEngine(h_pad=0.1))
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axis in axes[:count]:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set(color="0.6", visible=True)
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, axes


def _draw(axis: Axes, base_map: BaseMap, values: np.ndarray, **style: Any) -> AxesImage:
    """A field over the whole extent, of which the map's part is shown."""
    drawn = axis.imshow(
        sampled(values),
        extent=base_map.extent,
        interpolation="nearest",
        aspect=base_map.aspect,
        **style,
    )
    left, right, bottom, top = base_map.shown
    axis.set(xlim=(left, right), ylim=(bottom, top))
    return drawn


def _ground(axis: Axes, base_map: BaseMap, shade: np.ndarray, title: str) -> None:
    _draw(axis, base_map, shade, cmap="gray", vmin=-PALER, vmax=BRIGHTEST)
    axis.set_title(title, fontsize=9)


def _coordinates(axis: Axes, base_map: BaseMap) -> None:
    """Coordinates along the axes of the first panel; the others show the same part."""
    names = base_map.axis_names
    for along, name in zip((axis.xaxis, axis.yaxis), names, strict=True):
        along.set_major_locator(MaxNLocator(3, prune="lower"))
        along.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}"))
        along.set_label_text(name, fontsize=7)
    axis.tick_params(labelsize=6, length=2)
    for label in axis.get_yticklabels():
        label.set(rotation=90, va="center")


def scale_bar(axis: Axes, base_map: BaseMap) -> None:
    """A bar of a round length in the lower left corner, on white; an arrow where north is up."""
    left, right, bottom, top = base_map.shown
    width = abs(right - left) / base_map.per_metre
    power = 10 ** math.floor(math.log10(width / 4))
    length = max(k * power for k in (1, 2, 5) if k * power <= width / 4 or k == 1)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    bar = AnchoredSizeBar(
        axis.transData, length * base_map.per_metre, text, "lower left", label_top=True, sep=2,
        borderpad=0.3, size_vertical=0.01 * min(abs(right - left), abs(top - bottom)),
        fontproperties={"size": 7}, fill_bar=True,
    )  # fmt: skip
    bar.patch.set(alpha=0.8, linewidth=0)
    axis.add_artist(bar)
    if base_map.north_up:
        axis.annotate(
            "N", (0.94, 0.98), (0.94, 0.84), "axes fraction", fontsize=8, ha="center", va="center",
            arrowprops={"arrowstyle": "-|>", "facecolor": "black", "shrinkA": 0, "shrinkB": 0},
            bbox={"boxstyle": "circle,pad=0.15", "fc": "white", "alpha": 0.8, "linewidth": 0},
        )  # fmt: skip
    _coordinates(axis, base_map)


def full_depth(fields: list[np.ndarray]) -> float:
    """Depth in m at the dark end of the color scale: the 99.5th percentile of wet cells."""
    depths = np.concatenate([field.ravel() for field in fields])
    wet = depths[depths > SHOWN_M]
    return float(np.percentile(wet, 99.5)) if len(wet) else 2 * SHOWN_M


@figures.styled
def depths(path: Path, base_map: BaseMap, panels: list[Panel], title: str) -> None:
    """Write a PNG: depth of each panel over the hillshade, on one scale.

    Args:
        path: of the PNG.
        base_map: the terrain.
        panels: depths in m.
        title: of the figure.
    """
    figure, axes = _grid(len(panels), base_map)
    deepest = full_depth([base_map.known(panel.values) for panel in panels])
    norm, shade = PowerNorm(SHALLOW, 0, deepest), hillshade(base_map)
    for axis, panel in zip(axes, panels, strict=False):
        _ground(axis, base_map, shade, panel.title)
        wet = np.ma.masked_less(np.nan_to_num(base_map.known(panel.values)), SHOWN_M)
        _draw(axis, base_map, wet, cmap=WATER, norm=norm, alpha=0.85)
    scale_bar(axes[0], base_map)
    label = f"depth of water (m), from {SHOWN_M:g} m"
    shown = ScalarMappable(norm, WATER)
    figure.colorbar(shown, ax=axes, shrink=0.8, label=label, extend="max")
    figures.title(figure, title)
    figures.save(figure, path)


@figures.styled
def scales(path: Path, base_map: BaseMap, panels: list[Scale], title: str) -> None:
    """Write a PNG: fields over the hillshade, each on its own scale, cut at the 99.5th percentile.

    Args:
        path: of the PNG.
        base_map: the terrain.
        panels: fields; NaN and what is not above 0 show the ground.
        title: of the figure.
    """
    figure, axes = _grid(len(panels), base_map, columns=2, more_width=0.8)
    shade = hillshade(base_map)
    for axis, panel in zip(axes, panels, strict=False):
        _ground(axis, base_map, shade, panel.title)
        values = base_map.known(panel.values)
        shown = np.where(values > 0, values, np.nan)
        known = shown[np.isfinite(shown)]
        norm = Normalize(0, float(np.percentile(known, 99.5)) if len(known) else 1.0)
        drawn = _draw(axis, base_map, shown, cmap=SPREAD, norm=norm, alpha=0.85)
        bar = figure.colorbar(drawn, ax=axis, shrink=0.7, extend="max")
        bar.set_label(panel.unit, fontsize=8)
        bar.ax.tick_params(labelsize=7)
    scale_bar(axes[0], base_map)
    figures.title(figure, title)
    figures.save(figure, path)


@figures.styled
def differences(path: Path, base_map: BaseMap, panels: list[Panel], title: str, label: str) -> None:
    """Write a PNG: signed fields on one scale about zero, cut at the 98th percentile of gaps.

    Differences of at most ``LEAST_GAP_M`` are not drawn.

    Args:
        path: of the PNG.
        base_map: the terrain.
        panels: signed fields.
        title: of the figure.
        label: of the color bar.
    """
    figure, axes = _grid(len(panels), base_map)
    magnitudes = np.concatenate([np.abs(base_map.known(panel.values)).ravel() for panel in panels])
    gaps = magnitudes[magnitudes > LEAST_GAP_M]
    most = float(np.percentile(gaps, 98)) if len(gaps) else 1.0
    norm, shade = TwoSlopeNorm(0, -most, most), hillshade(base_map)
    for axis, panel in zip(axes, panels, strict=False):
        _ground(axis, base_map, shade, panel.title)
        gap = base_map.known(panel.values)
        drawn = np.where(np.abs(gap) > LEAST_GAP_M, gap, np.nan)
        _draw(axis, base_map, drawn, cmap=DIFFERENCE, norm=norm, alpha=0.85)
    scale_bar(axes[0], base_map)
    shown = ScalarMappable(norm, DIFFERENCE)
    figure.colorbar(shown, ax=axes, shrink=0.8, label=label, extend="both")
    figures.title(figure, title)
    figures.save(figure, path)


@figures.styled
def extents(
    path: Path, base_map: BaseMap, truth: np.ndarray, panels: list[Panel], wet_m: float, title: str
) -> None:
    """Write a PNG: hits, misses and false alarms of coarse floods.

    Args:
        path: of the PNG.
        base_map: the terrain.
        truth: pooled fine depth in m [nyc, nxc].
        panels: coarse depths in m.
        wet_m: depth above which a cell counts as wet, m.
        title: of the figure.
    """
    figure, axes = _grid(len(panels), base_map)
    colours, shade = ListedColormap([colour for _, colour in EXTENTS]), hillshade(base_map)
    for axis, panel in zip(axes, panels, strict=False):
        _ground(axis, base_map, shade, panel.title)
        predicted, actual = base_map.known(panel.values) > wet_m, base_map.known(truth) > wet_m
        code = np.where(
            predicted & actual, 0.0, np.where(actual, 1.0, np.where(predicted, 2.0, np.nan))
        )
        _draw(axis, base_map, code, cmap=colours, vmin=-0.5, vmax=2.5, alpha=0.85)
    scale_bar(axes[0], base_map)
    handles = [Patch(color=colour, label=name) for name, colour in EXTENTS]
    words = f"wet: deeper than {wet_m:g} m"
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, frameon=False, title=words,
        fontsize=8, title_fontsize=8,
    )  # fmt: skip
    figures.title(figure, title)
    figures.save(figure, path)


@figures.styled
def terrains(path: Path, fine: BaseMap, panels: list[Panel], moved: Panel, title: str) -> None:
    """Write a PNG: heights of each panel on one scale, and a signed difference.

    Args:
        path: of the PNG.
        fine: the fine terrain.
        panels: heights in m.
        moved: difference of heights in m.
        title: of the figure.
    """
    figure, axes = _grid(len(panels) + 1, fine)
    values = np.concatenate([fine.known(panel.values).ravel() for panel in panels])
    low, high = np.nanpercentile(values, (1, 99))
    norm = Normalize(float(low), float(high))
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, fine, fine.known(panel.values), cmap=HEIGHT, norm=norm)
        axis.set_title(panel.title, fontsize=9)
    scale_bar(axes[0], fine)
    shown = ScalarMappable(norm, HEIGHT)
    figure.colorbar(shown, ax=axes[: len(panels)], shrink=0.8, label="height (m)", extend="both")
    shown_moved = fine.known(moved.values)
    most = float(np.nanmax(np.abs(shown_moved))) or 1.0
    last = axes[len(panels)]
    drawn = _draw(last, fine, shown_moved, cmap=figures.DIFFERENCES, vmin=-most, vmax=most)
    last.set_title(moved.title, fontsize=9)
    figure.colorbar(drawn, ax=last, shrink=0.8, label="difference (m)")
    figures.title(figure, title)
    figures.save(figure, path)
