"""The unit that pre-activation nets are made of: BatchNorm, ReLU, convolution."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

# (input channels, output channels, side of the filters, role, groups=1) to a unit
MakeUnit = Callable[..., nn.Module]


class Unit(nn.Module):
    """conv(ReLU(BN(x))) of stride 1, padded to keep the size, without bias.

    Args:
        c_in: input channels.
        c_out: output channels.
        kernel: side of the filters, odd.
        groups: of the convolution.
        dropout: probability of dropping a value after the ReLU.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int, groups: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(c_in)
        self.conv = conv(c_in, c_out, kernel, groups)
        self.dropout = dropout

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        return self.convolve(functional.relu_(self.norm(x)), self.conv.weight)

    def convolve(
        self, a: Float[Tensor, "b c h w"], weight: Float[Tensor, "o d k k"]
    ) -> Float[Tensor, "b o h w"]:
        """Dropout and convolution of the activation."""
        if self.dropout:
            a = functional.dropout(a, self.dropout, self.training)
        return functional.conv2d(a, weight, None, 1, weight.shape[-1] // 2, groups=self.conv.groups)


def conv(c_in: int, c_out: int, kernel: int, groups: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size; weights of variance 2 / (k^2 c_out).

    Args:
        c_in: input channels.
        c_out: output channels.
        kernel: side of the filters, odd.
        groups: of channels.
    """
    made = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, groups=groups, bias=False)
    nn.init.normal_(made.weight, std=(2 / (kernel**2 * c_out)) ** 0.5)
    return made
