"""Pictures of saliency maps over their image: one comparison, one colour scale."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm, Normalize
from matplotlib.figure import Figure

from models.saliency.methods import Method
from models.saliency.spec import Overlay
from models.saliency.spec_masks import Rise

COLUMNS = 4
PANEL_INCHES = 2.6
SCORES = {"prob": "probability", "logit": "logit", "logprob": "log-probability"}
UNSIGNED_COLORMAP = "viridis"


class Panel(NamedTuple):
    """A map and what is written above it."""

    title: str
    values: Float[np.ndarray, "rows columns"]


UNSIGNED = ("meaningful", "extremal", "smoothgrad", "gradcam", "gradient", "random",
            "centre_gaussian", "edge", "constant")  # fmt: skip


def signed(method: Method) -> bool:
    """Whether zero means "no effect"; raw and coverage RISE are scores, not differences."""
    if isinstance(method, Rise):
        return method.estimator not in ("raw", "coverage")
    return method.id not in UNSIGNED


def describe(method: Method) -> str:
    """The method with the parameters that shape its map."""
    if isinstance(method, Rise):
        return (
            f"RISE ({method.estimator}, {method.masks} masks of {method.grid} x {method.grid}, "
            f"p {method.p:g}, {method.sampling})"
        )
    told = method.model_dump(exclude={"id"})
    segments = told.pop("segments", None)
    if segments:
        told["segments"] = " ".join(str(value) for value in segments.values())
    name = method.id.replace("_", " ")
    return (
        f"{name} ({', '.join(f'{key} {value}' for key, value in told.items())})" if told else name
    )


def quantity(method: Method, score: str) -> str:
    """What a map's values are, for the colour bar."""
    name = SCORES[score]
    if isinstance(method, Rise):
        return {
            "raw": f"mean {name} when kept (raw)",
            "coverage": f"mean {name} when kept",
            "centred": f"covariance of {name} and mask / p",
            "slope": f"rise of {name} when kept",
        }[method.estimator]
    return {
        "occlusion": f"fall of {name} when covered",
        "occlusion_raw": f"fall of {name} when covered",
        "feature_ablation": f"fall of {name} without the segment",
        "lime": f"rise of {name} with the segment (LIME)",
        "kernel_shap": f"Shapley value of {name}",
        "shapley_exact": f"Shapley value of {name}",
        "meaningful": "share removed",
        "extremal": "share kept, summed over areas",
        "gradient": f"|d {name} / d x|",
        "smoothgrad": f"mean |d {name} / d x|",
        "input_x_gradient": f"d {name} / d x times (x - b)",
        "integrated_gradients": f"share of f(x) - f(b) in {name}",
        "gradcam": "class activation",
    }.get(method.id, "control, arbitrary units")


def draw(
    path: Path,
    image: Float[np.ndarray, "h w c"],
    panels: list[Panel],
    title: str,
    label: str,
    overlay: Overlay,
    diverging: bool,
) -> None:
    """Write a PNG: the image, then each map over it in grey, on one scale.

    Args:
        path: of the PNG.
        image: values in [0, 1]; one channel is drawn grey, three in colour.
        panels: the maps to compare; a grid of windows is stretched over the image.
        title: above all.
        label: beside the colour bar, what the values are.
        overlay: colours and opacity.
        diverging: whether colours diverge from zero; else they run from least to greatest.
    """
    rows = math.ceil((len(panels) + 1) / COLUMNS)
    columns = math.ceil((len(panels) + 1) / rows)
    size = (PANEL_INCHES * columns + 1.0, (PANEL_INCHES + 0.25) * rows + 0.3)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    _image(axes[0], image, "image")
    grey = np.repeat(image.mean(2, keepdims=True), 3, axis=2)
    values = np.concatenate([panel.values.ravel() for panel in panels])
    norm = _scale(values, diverging)
    colours = overlay.colormap if diverging else UNSIGNED_COLORMAP
    for axis, panel in zip(axes[1:], panels, strict=False):
        _image(axis, grey, panel.title)
        axis.imshow(
            panel.values,
            cmap=colours,
            norm=norm,
            alpha=overlay.alpha,
            extent=(-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5),
            interpolation="nearest",
        )
    opaque = ScalarMappable(norm, colours)
    figure.colorbar(opaque, ax=list(axes), shrink=0.85, label=label)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, metadata={"Software": None})


def _image(axis: Axes, image: np.ndarray, title: str) -> None:
    shown = image if image.shape[2] in (3, 4) else np.repeat(image[:, :, :1], 3, axis=2)
    axis.imshow(shown, interpolation="nearest")
    axis.set_title(title, fontsize=9)


def _scale(values: np.ndarray, diverging: bool) -> Normalize:
    """One scale for all panels; a constant map still gets a range."""
    if diverging:
        return CenteredNorm(0, float(np.abs(values).max()) or 1.0)
    low, high = float(values.min()), float(values.max())
    return Normalize(low, high if high > low else low + 1.0)
