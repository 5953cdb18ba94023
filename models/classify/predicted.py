"""What a classifier says of images."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64, UInt8
from torch import Tensor


class Predicted(NamedTuple):
    """Answers for all images of a job.

    Attributes:
        names: of the images.
        log_probs: of the classes.
        truth: class of each image, among those of the net; -1 where unknown.
        shown: the first images as the net saw them, uint8 [k, h, w, c].
    """

    names: list[str]
    log_probs: Float[Tensor, "n classes"]
    truth: Int64[Tensor, "n"]
    shown: UInt8[np.ndarray, "k h w c"]
