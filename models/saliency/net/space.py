"""The input space of a net."""

import torch
from jaxtyping import Float
from torch import Tensor


class Space:
    """The input space of a net: pixels in [0, 1], normalised to ``(pixel - mean) / std``.

    Args:
        mean: of each channel.
        std: of each channel.
        recorded: whether ``mean`` is the mean of the net's training data.

    Attributes:
        others: pixels of the images that serve as baselines, by their key.
        samples: images of datasets that serve as baselines, uint8 [n, c, h, w], by dataset, part.
    """

    def __init__(self, mean: list[float], std: list[float], recorded: bool = True) -> None:
        self.mean = torch.tensor(mean, dtype=torch.float64)[:, None, None]
        self.std = torch.tensor(std, dtype=torch.float64)[:, None, None]
        self.recorded = recorded
        self.others: dict[tuple[str, str, int], Tensor] = {}
        self.samples: dict[tuple[str, str], Tensor] = {}

    def normalise(self, pixels: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Pixels in [0, 1] normalised for the net, in float64."""
        return (pixels.double() - self.mean.to(pixels.device)) / self.std.to(pixels.device)

    def pixels(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The inverse of :meth:`normalise`."""
        return x.double() * self.std.to(x.device) + self.mean.to(x.device)
