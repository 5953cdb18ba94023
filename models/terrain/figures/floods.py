"""Pictures of terrains and floods: hillshade, depth over it, differences, extents, scale bars."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LightSource, ListedColormap, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

PANEL_INCHES, COLUMNS = 3.0, 4
# from a blue that stands out from the hillshade; shallower water is not drawn
WATER, SHOWN_M = ListedColormap(colormaps["Blues"](np.linspace(0.3, 1, 256))), 0.02
DIFFERENCE, LEAST_GAP_M = "RdBu", 1e-3
# without blue, which is water's here, and white, which is no height
HEIGHT = ListedColormap(colormaps["terrain"](np.linspace(0.28, 0.95, 256)))
BRIGHTEST = 1.2  # above the hillshade's 1, so that no ground is as white as a gap in the data
EXTENTS = (("hit", "#3182bd"), ("miss", "#de2d26"), ("false alarm", "#fdae6b"))
Field = Float[np.ndarray, "ny nx"]


class Panel(NamedTuple):
    """A field on its own grid and its title."""

    title: str
    values: np.ndarray


class BaseMap(NamedTuple):
    """The terrain under the panels: heights in m, cell size in m, nodata cells; [ny, nx]."""

    z: np.ndarray
    dx: float
    missing: np.ndarray

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top in metres."""
        return (0.0, self.z.shape[1] * self.dx, self.z.shape[0] * self.dx, 0.0)

    def known(self, values: np.ndarray) -> np.ndarray:
        """A field [ny, nx] on fine or coarse cells, NaN where all fine cells are nodata."""
        ny, nx = values.shape
        f = self.missing.shape[0] // ny
        nowhere = self.missing[: ny * f, : nx * f].reshape(ny, f, nx, f).all((1, 3))
        return np.where(nowhere, np.nan, values)


def hillshade(base_map: BaseMap) -> Float[np.ndarray, "ny nx"]:
    """Hillshade lit from the north-west, 0 to 1; the relief of flat ground is exaggerated."""
    relief = float(np.percentile(base_map.z, 98) - np.percentile(base_map.z, 2)) or 1.0
    stretch = 0.12 * min(base_map.z.shape) * base_map.dx / relief
    shade = LightSource(315, 45).hillshade(base_map.z, stretch, base_map.dx, base_map.dx)
    return np.where(base_map.missing, np.nan, shade)


def _grid(count: int, shape: tuple[int, int]) -> tuple[Figure, list[Axes]]:
    rows = math.ceil(count / COLUMNS)
    columns = math.ceil(count / rows)
    tall = PANEL_INCHES * min(2.0, max(0.4, shape[0] / shape[1]))
    size = (PANEL_INCHES * columns + 1.2, (tall + 0.35) * rows + 0.5)
    figure = Figure(figsize=size, dpi=120, layout=ConstrainedLayoutEngine(h_pad=0.1))
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axis in axes[:count]:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_color("0.6")
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, axes


def _ground(axis: Axes, base_map: BaseMap, shade: np.ndarray, title: str) -> None:
    axis.imshow(
        shade, cmap="gray", vmin=0, vmax=BRIGHTEST, extent=base_map.extent, interpolation="nearest"
    )
    axis.set_title(title, fontsize=9)


def scale_bar(axis: Axes, base_map: BaseMap) -> None:
    """A bar of a round length in the lower left corner, on white."""
    width, height = base_map.extent[1], base_map.extent[2]
    power = 10 ** math.floor(math.log10(width / 4))
    length = max(k * power for k in (1, 2, 5) if k * power <= width / 4 or k == 1)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    bar = AnchoredSizeBar(
        axis.transData, length, text, "lower left", label_top=True, sep=2, borderpad=0.3,
        size_vertical=0.01 * min(width, height), fontproperties={"size": 7}, fill_bar=True,
    )  # fmt: skip
    bar.patch.set(alpha=0.8, linewidth=0)
    axis.add_artist(bar)


def full_depth(fields: list[np.ndarray]) -> float:
    """Depth in m at the dark end of the color scale: the 99.5th percentile of wet cells."""
    depths = np.concatenate([field.ravel() for field in fields])
    wet = depths[depths > SHOWN_M]
    return float(np.percentile(wet, 99.5)) if len(wet) else 2 * SHOWN_M


def depths(path: Path, base_map: BaseMap, panels: list[Panel], title: str) -> None:
    """Write a PNG: depth of each panel over the hillshade, on one scale.

    Args:
        path: of the PNG.
        base_map: the terrain.
        panels: depths in m.
        title: of the figure.
    """
    figure, axes = _grid(len(panels), base_map.z.shape)
    deepest = full_depth([base_map.known(panel.values) for panel in panels])
    norm, shade = Normalize(0, deepest), hillshade(base_map)
    for axis, panel in zip(axes, panels, strict=False):
        _ground(axis, base_map, shade, panel.title)
        wet = np.ma.masked_less(np.nan_to_num(base_map.known(panel.values)), SHOWN_M)
        axis.imshow(
            wet, cmap=WATER, norm=norm, alpha=0.85, extent=base_map.extent, interpolation="nearest"
        )
    scale_bar(axes[0], base_map)
    label = f"depth of water (m), from {SHOWN_M:g} m"
    shown = ScalarMappable(norm, WATER)
    figure.colorbar(shown, ax=axes, shrink=0.8, label=label, extend="max")
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, metadata={"Software": None})


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
    figure, axes = _grid(len(panels), base_map.z.shape)
    magnitudes = np.concatenate([np.abs(base_map.known(panel.values)).ravel() for panel in panels])
    gaps = magnitudes[magnitudes > LEAST_GAP_M]
    most = float(np.percentile(gaps, 98)) if len(gaps) else 1.0
    norm, shade = TwoSlopeNorm(0, -most, most), hillshade(base_map)
    for axis, panel in zip(axes, panels, strict=False):
        _ground(axis, base_map, shade, panel.title)
        gap = base_map.known(panel.values)
        axis.imshow(
            np.where(np.abs(gap) > LEAST_GAP_M, gap, np.nan),
            cmap=DIFFERENCE,
            norm=norm,
            alpha=0.85,
            extent=base_map.extent,
            interpolation="nearest",
        )
    scale_bar(axes[0], base_map)
    shown = ScalarMappable(norm, DIFFERENCE)
    figure.colorbar(shown, ax=axes, shrink=0.8, label=label, extend="both")
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, metadata={"Software": None})


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
    figure, axes = _grid(len(panels), base_map.z.shape)
    colours, shade = ListedColormap([colour for _, colour in EXTENTS]), hillshade(base_map)
    for axis, panel in zip(axes, panels, strict=False):
        _ground(axis, base_map, shade, panel.title)
        predicted, actual = base_map.known(panel.values) > wet_m, base_map.known(truth) > wet_m
        code = np.where(
            predicted & actual, 0.0, np.where(actual, 1.0, np.where(predicted, 2.0, np.nan))
        )
        axis.imshow(
            code, cmap=colours, vmin=-0.5, vmax=2.5, alpha=0.85, extent=base_map.extent,
            interpolation="nearest",
        )  # fmt: skip
    scale_bar(axes[0], base_map)
    handles = [Patch(color=colour, label=name) for name, colour in EXTENTS]
    words = f"wet: deeper than {wet_m:g} m"
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, title=words)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, metadata={"Software": None})


def terrains(path: Path, fine: BaseMap, panels: list[Panel], moved: Panel, title: str) -> None:
    """Write a PNG: heights of each panel on one scale, and a signed difference.

    Args:
        path: of the PNG.
        fine: the fine terrain.
        panels: heights in m.
        moved: difference of heights in m.
        title: of the figure.
    """
    figure, axes = _grid(len(panels) + 1, fine.z.shape)
    values = np.concatenate([fine.known(panel.values).ravel() for panel in panels])
    low, high = np.nanpercentile(values, (1, 99))
    norm = Normalize(float(low), float(high))
    for axis, panel in zip(axes, panels, strict=False):
        axis.imshow(
            fine.known(panel.values),
            cmap=HEIGHT,
            norm=norm,
            extent=fine.extent,
            interpolation="nearest",
        )
        axis.set_title(panel.title, fontsize=9)
    scale_bar(axes[0], fine)
    shown = ScalarMappable(norm, HEIGHT)
    figure.colorbar(shown, ax=axes[: len(panels)], shrink=0.8, label="height (m)", extend="both")
    shown_moved = fine.known(moved.values)
    most = float(np.nanmax(np.abs(shown_moved))) or 1.0
    last = axes[len(panels)]
    drawn = last.imshow(
        shown_moved, cmap="RdBu_r", vmin=-most, vmax=most, extent=fine.extent,
        interpolation="nearest",
    )  # fmt: skip
    last.set_title(moved.title, fontsize=9)
    figure.colorbar(drawn, ax=last, shrink=0.8, label="difference (m)")
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, metadata={"Software": None})
