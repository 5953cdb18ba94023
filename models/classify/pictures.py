"""Images with what they are taken for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from models.core import figures

COLUMNS = 6
COLOURS = {None: "black", True: "#0072b2", False: "#d55e00"}  # Okabe and Ito's blue, vermilion


@figures.styled
def draw(
    path: Path,
    shown: UInt8[np.ndarray, "k h w c"],
    titles: Sequence[str],
    right: Sequence[bool | None],
) -> None:
    """A grid of images, each under the class that it is taken for.

    Args:
        path: of the PNG.
        shown: the images as the net saw them.
        titles: one an image.
        right: whether the class is the true one, None if that is not known.
    """
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    size = (max(4.0, 2.0 * columns), 2.5 * rows)
    figure = figures.new(*size)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, image, title, is_right in zip(axes, shown, titles, right, strict=False):
        grey = image.shape[2] != 3
        panel.imshow(image[..., 0] if grey else image, cmap="gray", vmin=0, vmax=255)
        wrong = "wrong: " if is_right is False else ""
        panel.set_title(f"{wrong}{title}", fontsize=9, color=COLOURS[is_right])
    for panel in axes:
        panel.axis("off")
    known = [one for one in right if one is not None]
    summary = (
        f": {sum(known)} of {len(known)} named right" if known else ", with the likeliest class"
    )
    figures.title(
        figure, f"The first {len(shown)} images{summary}" if len(shown) > 1 else titles[0]
    )
    figures.save(figure, path)
