"""The smallest spec of each kind: seconds of work, a result that says nothing; for tests alone.

The ``example`` of a kind, which users are shown, is one whose result is worth seeing.
"""

from copy import deepcopy
from typing import Any

TINY = {"rows": 32, "columns": 32, "cell_size_m": 10.0, "roads": 1, "levees": 1}
_STEPS = {
    "model": {"name": "resnet8", "width": 16},
    "data": {"dataset": "digits"},
    "images": {"subset": 64, "image_size": 16, "augment": {"crop_padding": 1}},
    "max_steps": 12,
    "batch_size": 16,
}
_GRADED = {
    "model": {"pretrained": "efficientnet_lite0"},
    "images": [{"dataset": "photos", "index": 0}],
    "methods": [
        {"id": "occlusion", "window": 112, "stride": 112},
        {"id": "random"},
    ],
    "baselines": [{"id": "zero"}, {"id": "black"}],
    "graders": [{"id": "deletion", "points": 2}],
    "batch": 2,
}
_SMALLEST: dict[str, dict[str, Any]] = {
    "dynamic_downsampling.train": _STEPS,
    "dynamic_downsampling.plan": _STEPS,
    "selective_convolution.train": {
        "model": {"name": "densenet40", "growth": 4, "layers": 1},
        "data": {"dataset": "digits"},
        "images": {"subset": 64},
        "epochs": 4,
        "batch_size": 16,
        "selective": {"threshold": 0.3},
        "export": "compact",
    },
    "saliency.map": {
        "model": {"pretrained": "efficientnet_lite0"},
        "images": [{"dataset": "photos", "index": 0}],
        "methods": [
            {"id": "occlusion", "window": 112, "stride": 112},
            {"id": "rise", "masks": 4, "grid": 2, "sampling": "balanced"},
        ],
        "batch": 2,
    },
    "saliency.evaluate": _GRADED,
    "saliency.sweep": {
        **_GRADED,
        "seeds": [0, 1],
        "methods": [*_GRADED["methods"], {"id": "occlusion", "window": 128, "stride": 96}],
    },
    "saliency.roar": {
        **_STEPS,
        "model": {"name": "resnet8", "width": 16},
        "images": {"subset": 64},
        "max_steps": 4,
        "methods": [{"id": "gradient"}],
        "shares": [0.5],
        "seeds": [0],
    },
    "terrain.train": {
        "scenes": {"synthetic": TINY, "train": 2, "test": 1},
        "factor": 8,
        "duration_s": 60.0,
        "epochs": 2,
        "batch_size": 2,
        "width": 8,
    },
    "terrain.downsample": {"terrain": {"synthetic": TINY}, "factor": 8},
    "terrain.simulate": {"terrain": {"synthetic": TINY}, "duration_s": 120.0, "outputs": 2},
    "terrain.compare": {
        "terrain": {"synthetic": TINY},
        "duration_s": 120.0,
        "factor": 4,
        "methods": ["mean", "channel"],
        "optimise_steps": 2,
    },
    "freetickets.train": {
        "model": {"name": "resnet8", "width": 16},
        "data": {"dataset": "digits"},
        "images": {"subset": 64, "image_size": 8},
        "max_steps": 12,
        "members": 2,
        "update_interval": 2,
        "batch_size": 16,
    },
    "lcw.train": {
        "data": {"dataset": "digits"},
        "images": {"subset": 200},
        "arch": {"latent_dim": 4, "width": 16, "generator": {"depth": 1, "width": 16}},
        "phase1": {"max_steps": 6, "batch_size": 32, "validate_every": 3},
        "phase2": {"max_steps": 6, "batch_size": 32, "validate_every": 3},
        "evaluation": {"num_samples": 100, "classifier_steps": 10, "baselines": ["normal"]},
    },
    "classify.predict": {
        "model": {"pretrained": "efficientnet_lite0"},
        "data": {"dataset": "photos"},
    },
    "lcw.sample": {"model": {"pretrained": "digits"}, "count": 64},
}


def smallest(kind: str) -> dict[str, Any]:
    """A copy of the smallest spec of a kind.

    Raises:
        KeyError: for a kind whose smallest spec is still to be written here.
    """
    return {"kind": kind, **deepcopy(_SMALLEST[kind])}
