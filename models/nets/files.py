"""Trained nets from their files: weights and checkpoints of every supervised method."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from models.core.checkpoint import part, read
from models.core.errors import DataError
from models.nets import tickets
from models.nets.build import build_net


class LoadedNet(NamedTuple):
    """A trained net in eval mode and how to feed it.

    Attributes:
        net: takes normalised images, float32 [b, channels, h, w]; gives logits.
        classes: their names, in the order of the logits.
        mean: of each channel, of pixel values in [0, 1].
        std: of each channel, of pixel values in [0, 1].
        size: height and width in pixels of the images it was trained on.
        channels: of the images.
        fit: how images of other proportions come to the size: ``crop`` or ``squash``.
    """

    net: nn.Module
    classes: list[str]
    mean: list[float]
    std: list[float]
    size: tuple[int, int]
    channels: int
    fit: str = "squash"


def load_net(path: Path, device: str) -> LoadedNet:
    """The net that a file of weights or a checkpoint of any method holds.

    Raises:
        DataError: if the file is damaged, or its tensors do not fit the net it names.
    """
    tensors, description = read(path)
    weights = part(tensors, "net") or tensors
    try:
        shown, classes = description["input"], description["classes"]
        size = (shown["height"], shown["width"])
        net = build_net(description["net"], len(classes), shown["channels"], size)
        net.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{path.name} does not describe a net that fits its weights: {error}"
        ) from error
    return _loaded(net.to(device).eval(), description)


def load_members(path: Path, device: str) -> tuple[list[LoadedNet], dict[str, Any]]:
    """All nets of a file, of which an ensemble has several, and what the file tells of itself.

    Raises:
        DataError: as for :func:`load_net`.
    """
    description = read(path)[1]
    if "ensemble" in description:
        nets = tickets.load(path, device).nets
        return [_loaded(net, description) for net in nets], description
    return [load_net(path, device)], description


def _loaded(net: nn.Module, description: Mapping[str, Any]) -> LoadedNet:
    shown = description["input"]
    size = (shown["height"], shown["width"])
    mean, std = shown["mean"], shown["std"]
    fit = shown.get("fit", "squash")  # files of earlier releases do not tell
    return LoadedNet(net, description["classes"], mean, std, size, shown["channels"], fit)
