"""Pictures of saliency maps over their image, with one colour scale per comparison."""

import math
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm, Normalize

from models.core import figures
from models.saliency.spec.map import Overlay
from models.saliency.spec.masks import Rise
from models.saliency.spec.methods import Method

COLUMNS = 4
PANEL_INCHES = 2.6
BAR_INCHES = 0.6
BAR_LETTERS = 26  # characters per line of a colour bar's label
SCORES = {
    "prob": "probability",
    "sigmoid": "probability",
    "logit": "logit",
    "logprob": "log-probability",
}
UNSIGNED_COLORMAP = figures.AMOUNTS


WITHIN = 0.99  # quantile of gradients at the end of the scale; single pixels exceed it by far


class Style(NamedTuple):
    """How the maps of a method are drawn and labelled.

    Attributes:
        described: the method with its parameters.
        quantity: meaning of the values, for the colour bar.
        signed: whether zero means "no effect", so that colours diverge from it.
        within: quantile of the values at the end of the scale; larger ones get its last colour.
    """

    described: str
    quantity: str
    signed: bool
    within: float

    def colours(self, diverging: str) -> str:
        """Name of the colour map."""
        return diverging if self.signed else UNSIGNED_COLORMAP

    def scale(self, maps: Sequence[Float[np.ndarray, "rows columns"]]) -> Normalize:
        """The common scale of the maps of a comparison; constant maps still get a range."""
        values = np.concatenate([values.ravel() for values in maps])
        if self.signed:
            return CenteredNorm(0, float(np.quantile(np.abs(values), self.within)) or 1.0)
        low, high = float(values.min()), float(np.quantile(values, self.within))
        return Normalize(low, high if high > low else low + 1.0)

    @property
    def ends(self) -> str:
        """Which ends of the colour bar are drawn as open."""
        if self.within == 1:
            return "neither"
        return "both" if self.signed else "max"


def style(method: Method, name: str) -> Style:
    """The style of the maps of a method; ``name`` is what the score is called."""
    within = WITHIN if method.id in PIXELWISE else 1.0
    return Style(describe(method), quantity(method, name), signed(method), within)


class Panel(NamedTuple):
    """A map with its title."""

    title: str
    values: Float[np.ndarray, "rows columns"]


UNSIGNED = ("meaningful", "extremal", "smoothgrad", "gradcam", "score_cam", "ablation_cam", "sobol",
            "gradient", "random", "centre_gaussian", "edge", "constant")  # fmt: skip
PIXELWISE = ("gradient", "smoothgrad", "input_x_gradient", "integrated_gradients")
NAMES = {"lime": "LIME", "kernel_shap": "kernel SHAP", "shapley_exact": "exact Shapley values",
         "gradcam": "Grad-CAM", "score_cam": "Score-CAM", "ablation_cam": "Ablation-CAM",
         "sobol": "Sobol indices", "partition_shap": "partition SHAP",
         "smoothgrad": "SmoothGrad"}  # fmt: skip


def signed(method: Method) -> bool:
    """Whether zero means "no effect"; ``raw`` and ``coverage`` RISE are scores, not differences."""
    if isinstance(method, Rise):
        return method.estimator not in ("raw", "coverage")
    return method.id not in UNSIGNED


def describe(method: Method) -> str:
    """The method with its parameters, for titles."""
    if isinstance(method, Rise):
        return (
            f"RISE ({method.estimator}, {method.masks} masks of {method.grid} x {method.grid}, "
            f"p {method.p:g}, {method.sampling})"
        )
    parameters = method.model_dump(exclude={"id"}, exclude_none=True)
    segments = parameters.pop("segments", None)
    if segments:
        parameters["segments"] = " ".join(str(value) for value in segments.values())
    name = NAMES.get(method.id, method.id.replace("_", " "))
    return (
        f"{name} ({', '.join(f'{key} {value}' for key, value in parameters.items())})"
        if parameters
        else name
    )


def quantity(method: Method, name: str) -> str:
    """Meaning of a map's values, for the colour bar; ``name`` is what the score is called."""
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
        "partition_shap": f"Owen value of {name}",
        "meaningful": "share removed",
        "extremal": "share kept, summed over areas",
        "gradient": f"|d {name} / d x|",
        "smoothgrad": f"mean |d {name} / d x|",
        "input_x_gradient": f"d {name} / d x times (x - b)",
        "integrated_gradients": f"share of f(x) - f(b) in {name}",
        **dict.fromkeys(("gradcam", "score_cam", "ablation_cam"), "class activation"),
        "sobol": f"share of the variance of {name}",
    }.get(method.id, "control, arbitrary units")


@figures.styled
def draw(
    path: Path,
    image: Float[np.ndarray, "h w c"],
    panels: list[Panel],
    title: str,
    style: Style,
    overlay: Overlay,
) -> None:
    """Write a PNG with the image, then each map over the grey image, on one scale.

    Args:
        path: of the PNG.
        image: values in [0, 1]; one channel is drawn grey, three in colour.
        panels: the maps to compare; a grid of windows is stretched over the image.
        title: of the figure, after the method.
        style: of the method's maps.
        overlay: colours and opacity.
    """
    rows = math.ceil((len(panels) + 1) / COLUMNS)
    columns = math.ceil((len(panels) + 1) / rows)
    size = (PANEL_INCHES * columns + BAR_INCHES, (PANEL_INCHES + 0.25) * rows + 0.3)
    figure = figures.new(*size)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    _image(axes[0], image, "image")
    grey = np.repeat(image.mean(2, keepdims=True), 3, axis=2)
    norm, colours = style.scale([panel.values for panel in panels]), style.colours(overlay.colormap)
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
    bar = figure.colorbar(opaque, ax=list(axes), shrink=0.85, extend=style.ends)
    bar.set_label(fill(style.quantity, BAR_LETTERS))
    figures.title(figure, f"{style.described}: {title}")
    figures.save(figure, path, vector=False)


def _image(axis: Axes, image: np.ndarray, title: str) -> None:
    shown = image if image.shape[2] in (3, 4) else np.repeat(image[:, :, :1], 3, axis=2)
    axis.imshow(shown, interpolation="nearest")
    axis.set_title(title, fontsize=9)
