"""What the page's viewer of images shows of a generator: samples, and ways between two of them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from models.core.array_offsets import member_starts
from models.core.run import Run
from models.lcw import scores
from models.lcw.paths import Strips
from models.lcw.setup import pixels

FILE = "view.npz"
MOST_SAMPLES = 256
MOST_BYTES = 8 * 2**20  # of the samples, and of each way between two; a browser reads them whole
STEPS = 28, 10  # images of a strip: so many that a slider moves smoothly, or as many as a picture


def steps_of(image: Sequence[int], pairs: int) -> int:
    """Images of a strip between two samples of a shape [h, w, c]."""
    fine, coarse = STEPS
    return fine if pairs * fine * math.prod(image) <= MOST_BYTES else coarse


def write(
    run: Run,
    made: UInt8[Tensor, "n h w c"],
    strips: Strips,
    train: UInt8[Tensor, "m h w c"] | None = None,
) -> None:
    """Leave the view and the images that it shows.

    Args:
        run: gets the artifacts.
        made: samples, not selected.
        strips: of :func:`models.lcw.paths.strips`.
        train: training images, of which the nearest is shown beside each sample.
    """
    shape = tuple(made.shape[1:])
    shown = made[: min(MOST_SAMPLES, max(1, MOST_BYTES // math.prod(shape)))]
    arrays = {"samples": shown}
    grid: dict[str, Any] = {"title": "Samples, not selected", "count": len(shown)}
    if train is not None:
        index, gap = scores.nearest(pixels(shown).flatten(1), pixels(train).flatten(1))
        arrays["nearest"] = train[index]
        grid["distances"] = [round(value, 3) for value in gap.tolist()]
    arrays |= strips
    starts = _save(run, arrays)
    run.view(
        "images",
        {
            "file": FILE,
            "shape": list(shape),
            "grid": grid
            | {"offset": starts["samples"], "beside": starts.get("nearest")}
            | {"beside_title": "nearest training image"},
            "strips": [
                {"title": name, "offset": starts[name]} | _sizes(images)
                for name, images in strips.items()
            ],
        },
    )


def _sizes(images: UInt8[Tensor, "pairs steps h w c"]) -> dict[str, int]:
    return {"pairs": images.shape[0], "steps": images.shape[1]}


def _save(run: Run, arrays: dict[str, Tensor]) -> dict[str, int]:
    """The file of all arrays; where the bytes of each begin."""
    path = run.dir / FILE
    np.savez(path, **{name: array.cpu().numpy() for name, array in arrays.items()})
    run.artifact(FILE, role="samples")
    return dict(zip(arrays, member_starts(path), strict=True))
