"""What the page's viewer of members shows: how far tickets agree, and what confidence is worth."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from models.core.array_offsets import member_starts
from models.freetickets import ensemble
from models.freetickets.ensemble import Bins
from models.freetickets.evaluate import Tested
from models.freetickets.training import Training

FILE = "view.npz"
DISPUTED = 24  # test images
MOST_PIXELS = 2**20  # of a picture of one of them; larger ones are shown by every k-th pixel


def write(
    training: Training, tested: Tested, bins: list[Bins], values: dict[str, Any], iou: Tensor | None
) -> None:
    """Leave the view and the test images on which the tickets agree least.

    Args:
        training: that has ended.
        tested: its tickets on the test images.
        bins: of each ticket, then of the ensemble.
        values: of the result.
        iou: overlap [m, m] of each two masks; None where nothing is masked.
    """
    members = [f"ticket {number}" for number in range(len(tested.logs))]
    together = {name: values[f"ensemble_{name}"] for name in values["tickets"][0]}
    matrices = [
        ("predictions that differ", "share of test images", values["disagreement_matrix"]),
        ("divergence of row from column", "nats", values["kl_nats_matrix"]),
    ]
    if iou is not None:
        matrices.append(("masks in common", "intersection / union", iou.tolist()))
    training.run.view(
        "members",
        {
            "members": members,
            "together": "ensemble",
            "images": len(tested.labels),
            "figures": [*values["tickets"], together],
            "calibration": [_columns(each) for each in bins],
            "matrices": [
                {"title": title, "unit": unit, "values": rows} for title, unit, rows in matrices
            ],
            "disputed": _disputed(training, tested),
        },
    )


def _columns(bins: Bins) -> dict[str, list[Any]]:
    """Filled bins alone."""
    filled = bins.counts > 0
    return {
        "counts": bins.counts[filled].tolist(),
        "confidence": bins.confidence[filled].tolist(),
        "accuracy": bins.accuracy[filled].tolist(),
    }


def _disputed(training: Training, tested: Tested) -> dict[str, Any]:
    """The images on which tickets differ most, each with what every ticket takes it for."""
    data, run = training.data, training.run
    apart = ensemble.doubt(tested.logs)["mutual_information"]
    chosen = least_agreed(tested.logs, apart)
    step = max(1, round((data.test[0].numel() / MOST_PIXELS) ** 0.5))
    images = data.test[chosen.to(data.test.device)][:, ::step, ::step].cpu().numpy()
    np.savez(run.dir / FILE, disputed=images)
    run.artifact(FILE, role="samples")
    names = [str(name) for name in data.classes]
    every = torch.cat([tested.logs.double(), ensemble.mixture(tested.logs)[None]])[:, chosen]
    votes = every.max(2)
    return {
        "file": FILE,
        "offset": member_starts(run.dir / FILE)[0],
        "shape": list(images.shape[1:]),
        "rows": [
            {
                "index": int(index),
                "class": names[int(tested.labels[index])],
                "apart_nats": round(max(0.0, float(apart[index])), 4),
                "votes": [
                    [names[int(taken)], round(float(log.exp()), 4)]
                    for log, taken in zip(votes.values[:, k], votes.indices[:, k], strict=True)
                ],
            }
            for k, index in enumerate(chosen)
        ],
    }


def least_agreed(
    logs: Float[Tensor, "members n classes"], apart: Float[Tensor, "n"]
) -> Int64[Tensor, "k"]:
    """Positions of the images with the most classes named, among these of the most divergence."""
    votes = logs.argmax(2).sort(0).values
    named = 1 + (votes[1:] != votes[:-1]).sum(0)
    order = np.lexsort((-apart.cpu().numpy(), -named.cpu().numpy()))
    return torch.from_numpy(order[:DISPUTED].copy())
