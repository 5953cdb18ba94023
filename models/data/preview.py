"""A small picture of a dataset, made while it is checked: some of its images, or a hillshade."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

MOST_IMAGES = 10
SIDE = 96  # pixels of an image in the row
LONGEST = 384  # pixels of a hillshade
QUALITY = 85
NOWHERE = 245  # grey of cells without height
ALTITUDE, AZIMUTH = np.radians(45.0), np.radians(315.0)


def chosen(count: int) -> list[int]:
    """Positions spread over a set, so that sets sorted by class show several."""
    shown = min(count, MOST_IMAGES)
    return [k * count // shown for k in range(shown)]


def write_images(path: Path, squares: Sequence[Image.Image]) -> None:
    """A row of what :func:`square` gives."""
    row = Image.new("RGB", (SIDE * len(squares), SIDE), "white")
    for position, image in enumerate(squares):
        row.paste(image, (SIDE * position, 0))
    _write(path, row)


def square(image: UInt8[np.ndarray, "h w c"]) -> Image.Image:
    """An image cut to a square around its middle, at the size of a preview."""
    height, width, channels = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    part = image[top : top + side, left : left + side]
    shown = Image.fromarray(part[..., :3] if channels >= 3 else part[..., 0]).convert("RGB")
    enlarged = Image.Resampling.NEAREST if side < SIDE else Image.Resampling.BOX
    return shown.resize((SIDE, SIDE), enlarged)


def write_heights(path: Path, z: Float[np.ndarray, "ny nx"], cell_m: float) -> None:
    """A hillshade of heights in m, light from the north-west; NaN is pale.

    Args:
        path: of the picture.
        z: heights, the first row in the north.
        cell_m: side of a cell.
    """
    known = np.where(np.isfinite(z), z, np.nanmean(z))
    padded = np.pad(known, 1, mode="edge")  # a row or a column alone has no slope
    south, east = ((side[1:-1, 1:-1]) / cell_m for side in np.gradient(padded))
    steep, facing = np.arctan(np.hypot(south, east)), np.arctan2(-east, south)
    light = np.sin(ALTITUDE) * np.cos(steep)
    light += np.cos(ALTITUDE) * np.sin(steep) * np.cos(AZIMUTH - facing)
    grey = np.where(np.isfinite(z), 30 + 200 * np.clip(light, 0, 1), NOWHERE)
    _write(path, Image.fromarray(grey.astype(np.uint8)))


def _write(path: Path, picture: Image.Image) -> None:
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=QUALITY)
    path.write_bytes(content.getvalue())
