"""Specs to start from: a small one for the built-in digits, recipes for CIFAR. Torch-free."""

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "digits": {
        "kind": "freetickets.train",
        "model": {"name": "wide_resnet", "depth": 10, "widen": 1},
        "data": {"dataset": "digits"},
        "images": {"image_size": 16, "augment": {"crop_padding": 1}},
        "epochs": 27,
        "batch_size": 64,
        "update_interval": 20,
    },
    "cifar_edst": {
        "kind": "freetickets.train",
        "model": {"name": "wide_resnet", "depth": 28, "widen": 10},
        "images": {"augment": {"crop_padding": 4, "flip": True}},
        "epochs": 450,
        "explore": 150,
        "refine": 100,
        "optimizer": {"nesterov": False, "warmup": 0},
    },
    "cifar_edst_short": {  # 1.8 times 38 epochs: measured in the README
        "kind": "freetickets.train",
        "model": {"name": "wide_resnet", "depth": 16, "widen": 4},
        "images": {"augment": {"crop_padding": 4, "flip": True}},
        "epochs": 68,
        "batch_size": 256,
        "update_interval": 98,  # half an epoch of 50,000 images
        "freeze_last": 0.25,
        "prune_rate": {"initial": 0.3, "schedule": "cosine"},
        "rates": {"shape": "cosine", "high": 1.0, "low": 0.001},
        "optimizer": {"lr": 0.2, "nesterov": False},
    },
    "cifar_dst": {
        "kind": "freetickets.train",
        "variant": "dst",
        "model": {"name": "wide_resnet", "depth": 28, "widen": 10},
        "images": {"augment": {"crop_padding": 4, "flip": True}},
        "epochs": 750,
        "prune_rate": {"schedule": "cosine"},
        "optimizer": {"nesterov": False, "warmup": 0},
    },
}
