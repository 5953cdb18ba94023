"""A flood over time as a GIF or WebP."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from models.terrain.figures.floods import BRIGHTEST, SHOWN_M, WATER, full_depth, hillshade
from models.terrain.figures.maps import BaseMap

LONGEST_PX, FRAME_MS = 640, 200
STRIP_PX, RAMP_PX = 28, 120
FONT = 13


def write(path: Path, base_map: BaseMap, times: list[float], frames: Iterable[np.ndarray]) -> None:
    """Write one frame a time: depth over the hillshade; time and the scale of depths below.

    Args:
        path: of the picture; its ending chooses GIF or WebP.
        base_map: the terrain.
        times: s.
        frames: depth in m at these times; gone through twice, one in memory.
    """
    deepest = max(full_depth([base_map.known(frame)]) for frame in frames)
    shade = np.nan_to_num(hillshade(base_map) / BRIGHTEST, nan=1.0)[..., None] * np.ones(3)
    scale = LONGEST_PX / max(base_map.z.shape)
    size = (round(base_map.z.shape[1] * scale), round(base_map.z.shape[0] * scale))
    made = (
        _frame(
            _coloured(shade, np.nan_to_num(base_map.known(depth)), deepest),
            size,
            f"{t:.0f} s",
            deepest,
        )
        for t, depth in zip(times, frames, strict=True)
    )
    next(made).save(path, save_all=True, append_images=made, duration=FRAME_MS, loop=0, quality=85)


def _coloured(shade: np.ndarray, depth: np.ndarray, deepest: float) -> np.ndarray:
    colour = WATER(np.clip(depth / deepest, 0, 1))[..., :3]
    return np.where((depth > SHOWN_M)[..., None], 0.2 * shade + 0.8 * colour, shade)


def _frame(pixels: np.ndarray, size: tuple[int, int], text: str, deepest: float) -> Image.Image:
    """Colours [ny, nx, 3] of 0 to 1, enlarged, over a strip with the time and the scale."""
    ground = Image.fromarray((255 * pixels).astype(np.uint8))
    picture = Image.new("RGB", (max(size[0], 3 * RAMP_PX), size[1] + STRIP_PX), "white")
    picture.paste(ground.resize(size, Image.Resampling.NEAREST))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT)
    middle, right = size[1] + STRIP_PX // 2, picture.width - 6
    draw.text((6, middle), text, "black", font, "lm")
    label = f"{deepest:.2g} m and more"
    draw.text((right, middle), label, "black", font, "rm")
    colours = WATER(np.tile(np.linspace(0, 1, RAMP_PX), (12, 1)))[..., :3]
    left = right - 6 - int(font.getlength(label)) - RAMP_PX
    picture.paste(Image.fromarray((255 * colours).astype(np.uint8)), (left, middle - 6))
    draw.text((left - 6, middle), "depth 0", "black", font, "rm")
    return picture
