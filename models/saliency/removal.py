"""Images without the pixels that a map ranks highest, and the rankings themselves."""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Int, UInt8
from torch import Tensor, nn

from models.data.images import ImageData
from models.saliency import philox
from models.saliency.case_builder import image_seed
from models.saliency.methods.baselines import replacements_of
from models.saliency.methods.case import Case
from models.saliency.methods.registry import compute_map
from models.saliency.net.scores import Scorer
from models.saliency.net.space import Space
from models.saliency.ranks import ranks
from models.saliency.spec.methods import Method
from models.saliency.spec.roar import SaliencyRoar

PARTS = ("train", "validation", "test")
CHUNK = 256  # images ranked at random, or passed through a net, at once
Ranking = dict[str, Int[Tensor, "n h w"]]  # by part: rank of each pixel of each image, 0 first


def rank_by_map(
    spec: SaliencyRoar, method: Method, net: nn.Module, data: ImageData, tick: Callable[[int], None]
) -> Ranking:
    """The order of the pixels of every image, by the map of the class that the net chooses.

    The true class would tell the label by the pixels that are missing.

    Args:
        spec: of the job.
        method: of it.
        net: in evaluation mode, on the device of the data.
        data: the images.
        tick: called with the rows of each pass; may stop the run.
    """
    scorer, space = Scorer(net, spec.score, tick), Space(data.mean, data.std)

    def rank(image: UInt8[Tensor, "h w c"], position: int) -> Int[Tensor, "h w"]:
        x = space.normalise(image.permute(2, 0, 1) / 255).float()
        outputs = scorer.outputs(x[None])
        target = outputs.argmax(1)
        full = scorer.scores(outputs)[0, target]
        case = Case(x, scorer, target, full, image_seed(spec.seed, position), CHUNK)
        (b,) = replacements_of(spec.baseline, x, space, case.seed)
        return ranks(compute_map(method, case, b)[0], lowest_first=False)

    ranking, position = {}, 0
    for part in PARTS:
        rows = []
        for image in getattr(data, part):
            rows.append(rank(image, position).to(_integer(data)))
            position += 1
        ranking[part] = torch.stack(rows).cpu() if rows else torch.empty(0)
    return ranking


def rank_at_random(data: ImageData, seed: int) -> Ranking:
    """A random order for every image, from the seed."""
    height, width = data.size
    ranking, position = {}, 0
    for part in PARTS:
        rows = []
        for index in torch.arange(len(getattr(data, part))).split(CHUNK):
            drawn = philox.words((seed, 13), philox.CELLS, index + position, height * width)
            order = drawn.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
            rows.append(order.view(-1, height, width).to(_integer(data)))
        position += len(getattr(data, part))
        ranking[part] = torch.cat(rows) if rows else torch.empty(0)
    return ranking


def _integer(data: ImageData) -> torch.dtype:
    """The smallest type that holds a rank; all rankings of a set are in memory."""
    return torch.int16 if data.size[0] * data.size[1] <= 2**15 else torch.int32


def removed(data: ImageData, ranking: Ranking, share: float) -> ImageData:
    """The data with the first pixels of every image replaced by the mean colour of the training.

    Mean and deviation by which nets normalise stay those of the whole images.

    Args:
        data: the images.
        ranking: of all parts.
        share: of the pixels, rounded to whole ones.
    """
    colour = (torch.tensor(data.mean) * 255).round().to(torch.uint8)
    count = round(share * data.size[0] * data.size[1])
    parts = {
        part: _without(getattr(data, part), ranking[part], count, colour)
        for part in PARTS
        if len(getattr(data, part))
    }
    return dataclasses.replace(data, **parts)


def _without(
    images: UInt8[Tensor, "n h w c"],
    rank: Int[Tensor, "n h w"],
    count: int,
    colour: UInt8[Tensor, "c"],
) -> UInt8[Tensor, "n h w c"]:
    gone = (rank < count)[..., None].to(images.device)
    return torch.where(gone, colour.to(images.device), images)
