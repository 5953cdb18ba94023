"""A trained classifier of any kind, and the way of a picture into it."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from models.core.errors import DataError
from models.core.run import Run
from models.core.spec import ArtifactRef
from models.data import sizing
from models.data.fitting import fit
from models.nets import efficientnet_lite
from models.nets.files import LoadedNet, load_members
from models.nets.spec import IMAGENET_MARGIN, Pretrained

GREY = (0.299, 0.587, 0.114)  # of red, green and blue in luminance (ITU-R BT.601)


class Classifier(NamedTuple):
    """Nets that share classes and input.

    Attributes:
        nets: one, or the members of an ensemble; on the run's device, in eval mode.
        about: classes and input.
        margin: of a resized picture around its central crop; None where pictures come to the size
            as those of the training did.
        card: what the file tells beside, as JSON.
    """

    nets: list[nn.Module]
    about: LoadedNet
    margin: float | None
    card: dict[str, object]

    @torch.no_grad()
    def log_probabilities(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Log of the mean probability of the members for normalised images."""
        members = torch.stack([net(x).double().log_softmax(1) for net in self.nets])
        return (members.logsumexp(0) - np.log(len(self.nets))).float()


def load(model: ArtifactRef | Pretrained, run: Run) -> Classifier:
    """The classifier that a spec names, on the run's device.

    Raises:
        DataError: if the file holds no net.
        DataMissingError: if the package of a pretrained net is not installed.
    """
    if isinstance(model, ArtifactRef):
        members, card = load_members(run.input(model), run.device)
        return Classifier([member.net for member in members], members[0], None, card)
    net, classes = efficientnet_lite.pretrained()
    mean, std = [efficientnet_lite.MEAN] * 3, [efficientnet_lite.STD] * 3
    side = efficientnet_lite.IMAGE_SIZE
    about = LoadedNet(net.to(run.device), classes, mean, std, (side, side), 3)
    return Classifier([about.net], about, IMAGENET_MARGIN, {})


def prepared(
    image: UInt8[np.ndarray, "h w c"], name: str, classifier: Classifier, other_sizes: str
) -> UInt8[np.ndarray, "i j d"]:
    """A picture at the size and with the channels of the net's input.

    Args:
        image: as decoded.
        name: of it in errors.
        classifier: whose input it becomes.
        other_sizes: ``refuse`` leaves pictures of another size to the user.

    Raises:
        DataError: if the channels cannot be made to fit, or another size is refused.
    """
    size = classifier.about.size
    image = _channels(image, name, classifier.about.channels)
    if image.shape[:2] == size:
        return image
    if other_sizes == "refuse":
        raise DataError(
            f"{name} has {image.shape[0]} x {image.shape[1]} pixels, the net was trained on"
            f" {size[0]} x {size[1]}: give such images, or other_sizes resize"
        )
    if classifier.margin is not None:
        return fit(image, size, classifier.margin)
    return sizing.fitted(torch.tensor(image)[None], size, classifier.about.fit)[0].numpy()


def _channels(image: np.ndarray, name: str, channels: int) -> np.ndarray:
    """Grey becomes colour by repetition, colour grey by its luminance."""
    given = image.shape[2]
    if given == channels:
        return image
    if given == 1:
        return np.repeat(image, channels, axis=2)
    if (given, channels) == (3, 1):
        return np.rint(image @ np.array(GREY)).astype(np.uint8)[..., None]
    raise DataError(
        f"{name} has {given} channels, the net's input {channels}: give images of {channels}, or"
        " grey ones"
    )
