"""Small nets whose maps can be computed by hand."""

import torch
from torch import nn

from models.saliency.methods.case import Case
from models.saliency.net.scores import Scorer


class Linear(nn.Module):
    """f_k(x) = <w_k, x> + a."""

    def __init__(self, w: torch.Tensor, a: float = 0.0) -> None:
        super().__init__()
        self.w, self.a = nn.Parameter(w), a

    def forward(self, x):
        return x.flatten(1) @ self.w.flatten(1).T + self.a


def conv_net(classes: int = 5) -> nn.Module:
    """A small convolutional net with batch norm, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, classes),
        )
    return net.eval()


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def case(
    net: nn.Module, x: torch.Tensor, kind: str = "logit", targets=(0,), chunk: int = 7
) -> Case:
    """An image to explain with a net of the image's dtype."""
    scorer, index = Scorer(net.to(x.dtype).eval(), kind), torch.tensor(targets)
    full = scorer.scores(scorer.outputs(x[None]))[0, index]
    return Case(x, scorer, index, full, 0, chunk)
