"""A flood over time as a GIF."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from models.terrain.pictures import SHOWN_M, WATER, Stage, hillshade

LONGEST_PX, FRAME_MS = 640, 200


def write(path: Path, stage: Stage, times: list[float], frames: list[np.ndarray]) -> None:
    """Write one frame a time: depth over the hillshade, deepest water darkest, time in a corner.

    Args:
        path: of the GIF.
        stage: the terrain.
        times: s.
        frames: depth in m at these times.
    """
    deepest = max(float(frame.max()) for frame in frames) or 1.0
    shade = np.nan_to_num(hillshade(stage), nan=1.0)[..., None] * np.ones(3)
    scale = LONGEST_PX / max(stage.z.shape)
    size = (round(stage.z.shape[1] * scale), round(stage.z.shape[0] * scale))
    made = [
        _frame(
            shade,
            np.nan_to_num(stage.known(frame)) / deepest,
            SHOWN_M / deepest,
            size,
            f"{t:.0f} s",
        )
        for t, frame in zip(times, frames, strict=True)
    ]
    made[0].save(path, save_all=True, append_images=made[1:], duration=FRAME_MS, loop=0)


def _frame(
    shade: np.ndarray, water: np.ndarray, least: float, size: tuple[int, int], text: str
) -> Image.Image:
    colour = WATER(np.clip(water, 0, 1))[..., :3]
    wet = (water > least)[..., None]
    pixels = np.where(wet, 0.2 * shade + 0.8 * colour, shade)
    picture = Image.fromarray((255 * pixels).astype(np.uint8)).resize(
        size, Image.Resampling.NEAREST
    )
    draw = ImageDraw.Draw(picture)
    draw.rectangle((4, 4, 12 + 7 * len(text), 20), fill="white")
    draw.text((8, 6), text, fill="black")
    return picture
