"""The change between pixels and what a net sees."""

import torch
from jaxtyping import Float
from torch import Tensor


class Space:
    """The change between pixels in [0, 1] and what the net sees, ``(pixel - mean) / std``."""

    def __init__(self, mean: list[float], std: list[float], recorded: bool = True) -> None:
        self.mean = torch.tensor(mean, dtype=torch.float64)[:, None, None]
        self.std = torch.tensor(std, dtype=torch.float64)[:, None, None]
        self.recorded = recorded  # whether ``mean`` is the mean of the net's training data
        self.others: dict[tuple[str, str, int], Tensor] = {}  # pixels of images used as baselines

    def normalise(self, pixels: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Pixels in [0, 1] to the net's space, in float64."""
        return (pixels.double() - self.mean.to(pixels.device)) / self.std.to(pixels.device)
