"""What differs between training and use in a net from an exported program: modules with a mode."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Norm(nn.Module):
    """A batch norm, as ``nn.BatchNorm2d`` computes it; weights and statistics are arguments.

    Args:
        momentum: of the running statistics; with 0 and a count they are means over all batches.
        eps: added to the variance.
        rests: whether it goes by its running statistics in training, too.

    Attributes:
        seen: None, or how many batches the running statistics are the means over, from 0.
    """

    def __init__(self, momentum: float, eps: float, *, rests: bool) -> None:
        super().__init__()
        self.momentum, self.eps, self.rests = momentum, eps, rests
        self.seen: int | None = None

    def forward(
        self,
        x: Float[Tensor, "b c ..."],
        weight: Float[Tensor, "c"] | None,
        bias: Float[Tensor, "c"] | None,
        mean: Float[Tensor, "c"],
        variance: Float[Tensor, "c"],
        count: Tensor | None,
    ) -> Float[Tensor, "b c ..."]:
        """Normalise; in training by the batch, which moves ``mean``, ``variance``, ``count``."""
        trains, momentum = self.training and not self.rests, self.momentum
        if trains and count is not None:
            count.add_(1)
            if momentum == 0:
                momentum = 1.0 / max(1.0, float(count))
        if trains and self.seen is not None:
            self.seen += 1
            momentum = 1.0 / self.seen
        return functional.batch_norm(x, mean, variance, weight, bias, trains, momentum, self.eps)


DROP = {
    "dropout": torch.dropout,
    "dropout_": torch.dropout_,
    "feature_dropout": torch.feature_dropout,
    "feature_dropout_": torch.feature_dropout_,
}


class Dropout(nn.Module):
    """Dropout of single values or whole feature maps in training; nothing in eval mode.

    Args:
        name: one of ``DROP``.
        p: share that is dropped.
    """

    def __init__(self, name: str, p: float) -> None:
        super().__init__()
        self.drop, self.p = DROP[name], p

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Drop, and scale up what is left."""
        return self.drop(x, self.p, self.training)


class Attention(nn.Module):
    """Scaled dot-product attention that drops a share ``p`` of its weights in training."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(
        self,
        q: Float[Tensor, "... l e"],
        k: Float[Tensor, "... s e"],
        v: Float[Tensor, "... s d"],
        mask: Tensor | None = None,
        _: float = 0.0,
        *others: Any,
        **named: Any,
    ) -> Float[Tensor, "... l d"]:
        """Attend; the probability in the place of ``_`` gives way to that of the mode."""
        p = self.p if self.training else 0.0
        return functional.scaled_dot_product_attention(q, k, v, mask, p, *others, **named)


class Chance(nn.Module):
    """Draws of 0 and 1 from torch's global stream, written into the input; ones in eval mode.

    Args:
        p: share of ones.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Fill ``x``."""
        return x.bernoulli_(self.p) if self.training else x.fill_(1)


class Rescale(nn.Module):
    """Division of the draws by their mean ``p``; in eval mode there is none to make up for."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Divide in place, as nets do that were exported."""
        return x.div_(self.p) if self.training else x


def admitted(images: Float[Tensor, "b c h w"], size: Sequence[int | None]) -> Tensor:
    """The images, if a program takes them.

    Args:
        images: of a batch.
        size: channels, height and width that it was exported for; None where it leaves them open.

    Raises:
        ValueError: if it does not.
    """
    for name, axis, given in zip(
        ("channels", "height", "width"), images.shape[1:], size, strict=True
    ):
        if given is not None and axis != given:
            raise ValueError(
                f"the program was exported for a {name} of {given}, and was given {axis}"
            )
    return images
