"""Trained nets from their files: weights and checkpoints of every supervised method."""

from pathlib import Path
from typing import NamedTuple

from torch import nn

from models.core.checkpoint import part, read
from models.core.errors import DataError
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
    """

    net: nn.Module
    classes: list[str]
    mean: list[float]
    std: list[float]
    size: tuple[int, int]
    channels: int


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
    net.to(device).eval()
    return LoadedNet(net, classes, shown["mean"], shown["std"], size, shown["channels"])
