"""Which images of a set a job uses: some of them, and a share held out for validation."""

import torch
from torch import Tensor

from models.core.device import generator
from models.core.errors import DataError, SpecError
from models.data.arrays import held_out


def all_alike(count: int, name: str) -> DataError:
    """The error of a set whose training images are one image.

    Args:
        count: of them.
        name: of the set.
    """
    return DataError(
        f"the {count} training images of {name} are all alike, so that there is nothing to learn:"
        " give images that differ"
    )


def hold_out(pair: list[Tensor], count: int, seed: int) -> tuple[list[Tensor], list[Tensor] | None]:
    """What is left to train on, and of each class its share to validate on, drawn by the seed.

    Args:
        pair: images, or what stands for them, [n, ...], and labels int64 [n].
        count: to hold out.
        seed: of the job.
    """
    if count == 0:
        return pair, None
    mixed = torch.randperm(len(pair[1]), generator=generator(seed, "validation", 0))
    held = torch.from_numpy(held_out(pair[1][mixed].numpy(), count))
    kept, held = (mixed[part].sort().values for part in (~held, held))
    return [tensor[kept] for tensor in pair], [tensor[held] for tensor in pair]


def subset(pair: list[Tensor], count: int, seed: int) -> list[Tensor]:
    """Some of the training images, drawn by the seed; arguments as of :func:`hold_out`.

    Raises:
        SpecError: if there are fewer.
    """
    n = len(pair[0])
    if count > n:
        raise SpecError(f"images.subset {count} is more than the {n} training images")
    chosen = torch.randperm(n, generator=generator(seed, "subset", 0))[:count]
    return [tensor[chosen] for tensor in pair]
