"""Pictures of a generator: grids of images, curves, and how its latents lie."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from torch import Tensor

from models.core import figures
from models.lcw import scores
from models.lcw.evaluate import decode, pixels
from models.lcw.nets import Nets, in_parts
from models.lcw.paths import Strips

GRID = 8
STEPS = 10  # images of a strip
SHOWN = 2000  # points of the scatter, at most
LABELS = {
    "autoencoder": "objective of phase 1",
    "generator": "Cramer-Wold distance of latents",
}


def tile(
    images: UInt8[np.ndarray, "n h w c"], columns: int, together: int = 1
) -> UInt8[np.ndarray, "_h _w c"]:
    """Images in rows, one grey pixel between them, a wider band after rows that belong together."""
    n, h, w, c = images.shape
    rows, band = -(-n // columns), max(1, h // 4) if together > 1 else 0
    height = rows * (h + 1) - 1 + (rows - 1) // together * band
    sheet = np.full((height, columns * (w + 1) - 1, c), 128, dtype=np.uint8)
    for index, image in enumerate(images):
        row, left = index // columns, index % columns * (w + 1)
        top = row * (h + 1) + row // together * band
        sheet[top : top + h, left : left + w] = image
    return sheet


def _show(
    axes: Axes, images: UInt8[Tensor, "n h w c"], columns: int, title: str, together: int = 1
) -> None:
    sheet = tile(images.cpu().numpy(), columns, together)
    grey = sheet.shape[2] == 1
    shown = sheet[..., 0] if grey else sheet
    axes.imshow(shown, cmap="gray" if grey else None, vmin=0, vmax=255, interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()


@figures.styled
def samples(path: Path, images: UInt8[Tensor, "n h w c"], title: str) -> None:
    """The first 64 samples."""
    figure = figures.new(5, 5.3)
    _show(figure.subplots(), images[: GRID**2], GRID, title)
    figures.save(figure, path)


@figures.styled
def reconstructions(path: Path, nets: Nets, test: UInt8[Tensor, "n h w c"]) -> None:
    """Rows of test images, each above its reconstruction."""
    images = test[: 4 * GRID]
    decoded = decode(nets.decoder, in_parts(nets.encoder, pixels(images)))
    count = len(images) // GRID * GRID or len(images)
    columns = min(GRID, count)
    pairs = torch.stack(
        [images[:count].unflatten(0, (-1, columns)), decoded[:count].unflatten(0, (-1, columns))], 1
    )  # [rows, 2, columns, h, w, c]
    figure = figures.new(5, 5.3)
    title = "test images, each row above its reconstructions"
    _show(figure.subplots(), pairs.flatten(0, 2), columns, title, together=2)
    figures.save(figure, path)


@figures.styled
def interpolations(path: Path, strips: Strips) -> None:
    """Strips between pairs of noise vectors, a panel a way between them."""
    pairs, steps = next(iter(strips.values())).shape[:2]
    shown = torch.linspace(0, steps - 1, min(steps, STEPS)).round().long()
    figure = figures.new(9, 0.44 * pairs + 0.7)
    for axes, (name, images) in zip(figure.subplots(1, len(strips)), strips.items(), strict=True):
        _show(axes, images[:, shown].flatten(0, 1), len(shown), name)
    figures.title(figure, f"From one sample to another, a row a pair, in {len(shown)} of the steps")
    figures.save(figure, path)


@figures.styled
def neighbours(path: Path, made: UInt8[Tensor, "n h w c"], train: UInt8[Tensor, "m h w c"]) -> None:
    """Samples, each above the training image nearest in pixels."""
    some = made[: 2 * GRID]
    index, gap = scores.nearest(pixels(some).flatten(1), pixels(train).flatten(1))
    rows = torch.stack([some.unflatten(0, (2, GRID)), train[index].unflatten(0, (2, GRID))], 1)
    figure = figures.new(6, 3.4)
    title = f"samples above their nearest training images (median distance {gap.median():.2f})"
    _show(figure.subplots(), rows.flatten(0, 2), GRID, title, together=2)
    figures.save(figure, path)


@figures.styled
def latents(path: Path, encoded: Float[Tensor, "n d"], made: Float[Tensor, "m d"]) -> None:
    """Encoded and generated latents on the two main axes of the encoded ones, one scale."""
    z, g = (points[:SHOWN].double().cpu() for points in (encoded, made))
    axes_of = torch.linalg.svd(z - z.mean(0), full_matrices=False)[2][:2].T
    flat = [(points - z.mean(0)) @ axes_of for points in (z, g)]
    figure = figures.new(8.5, 5.2, layout="compressed")  # the axes keep one scale
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    names = ("encoded training images", "generated from noise")
    for axes, points, name, colour in zip(panels, flat, names, figures.COLOURS[:2], strict=True):
        axes.scatter(*points.T.numpy(), s=5, alpha=0.5, color=colour, linewidths=0)
        axes.set_title(f"{name} ({len(points)})", fontsize=10)
        axes.set_xlabel("first principal axis of the encoded latents")
        axes.set_aspect("equal")
        axes.grid(visible=True)
    panels[0].set_ylabel("second principal axis")
    figures.title(figure, "Where latents lie: the same places are the aim, not the same points")
    rows = [
        {"latents": name, "first_axis": x, "second_axis": y}
        for points, name in zip(flat, names, strict=True)
        for x, y in points.tolist()
    ]
    figures.save(figure, path, rows)


@figures.styled
def curves(path: Path, history: dict[str, list[dict[str, Any]]]) -> None:
    """Loss and validation of each stage against its steps."""
    figure = figures.new(4.6 * len(history), 3.8)
    for axes, (name, rows) in zip(
        figure.subplots(1, len(history), squeeze=False)[0], history.items(), strict=True
    ):
        steps = [r["step"] for r in rows]
        figures.line(axes, steps, [r["loss"] for r in rows], 0, label="training", marker="")
        tested = [r for r in rows if "validation" in r]
        values = [r["validation"] for r in tested]
        figures.line(axes, [r["step"] for r in tested], values, 1, label="held-out")
        if name == "generator" and min(r["loss"] for r in rows) > 0 and min(values) > 0:
            figures.log_scale(axes)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("optimizer step of the stage")
        axes.set_ylabel(LABELS.get(name, "objective of the peer"))
        axes.grid(visible=True)
        axes.legend()
    figures.title(figure, _course(history))
    rows = [
        {"stage": name} | {column: row.get(column) for column in ("step", "loss", "validation")}
        for name, stage in history.items()
        for row in stage
    ]
    figures.save(figure, path, rows)


def _course(history: dict[str, list[dict[str, Any]]]) -> str:
    """What became of the loss of each stage."""
    parts = [
        f"{name} from {rows[0]['loss']:.3g} to {rows[-1]['loss']:.3g}"
        for name, rows in history.items()
    ]
    return f"Loss of {', '.join(parts)}"
