"""An image to explain: what every map maker and grader is given."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from models.saliency.engine.boxes import Regions
from models.saliency.engine.incremental import Base
from models.saliency.engine.threads import each
from models.saliency.net.scores import Fill, Scorer

TOGETHER = {"cpu": 16, "cuda": 96}  # regions carried through the net at once


@dataclass
class Case:
    """An image with the classes to explain.

    Attributes:
        x: the image as the net sees it.
        scorer: reads the net.
        targets: the k classes.
        full: ``f(x)``, their scores on the image itself, float64.
        seed: of every random choice.
        chunk: images a forward pass.
        pixels: the image in [0, 1], for segments and edges; ``x`` where it is not known.
        told: what a map maker has to say beside its map, for the report.
    """

    x: Float[Tensor, "c h w"]
    scorer: Scorer
    targets: Int64[Tensor, "k"]
    full: Float[Tensor, "k"]
    seed: int
    chunk: int
    pixels: Float[Tensor, "c h w"] | None = field(default=None)
    told: dict[str, int] = field(default_factory=dict)

    def score(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Scores of the k classes for a batch, float64."""
        return self.scorer.read(self.scorer.outputs(images))[:, self.targets]

    def scores(
        self, images: Callable[[Int64[Tensor, "m"]], Float[Tensor, "m c h w"]], count: int
    ) -> Float[Tensor, "n k"]:
        """Scores of images 0 to ``count``, made from their indices a batch at a time.

        On a CPU each core makes and reads batches of its own.
        """
        every = torch.arange(count, device=self.x.device).split(self.chunk)
        found = each(lambda index: self.score(images(index)), every, self.x.device.type)
        return torch.cat(list(found))

    def under(
        self, key: Hashable, regions: Callable[[], Regions], b: Tensor | Fill
    ) -> Float[Tensor, "n k"]:
        """Scores with each region's pixels taken from ``b``, by boxes where the net has a plan.

        ``key`` names the regions; the same key must mean the same regions of images of one size.
        They are made when their way through the net is not known yet.
        """
        if self.scorer.plan is None:
            return self._one_by_one(regions(), b)
        size = TOGETHER[self.x.device.type]
        out = self.scorer.changed(self.x, b, key, regions, lambda: self._base, size)
        return self.scorer.read(out)[:, self.targets]

    @cached_property
    def _base(self) -> Base:
        return self.scorer.base(self.x)

    def _one_by_one(self, regions: Regions, b: Tensor | Fill) -> Float[Tensor, "n k"]:
        return self.scores(lambda index: self.without(regions.masks(index), b), regions.number)

    def without(self, removed: Bool[Tensor, "n h w"], b: Tensor | Fill) -> Float[Tensor, "n c h w"]:
        """The image with pixels taken from a baseline image, or filled from those around them."""
        if isinstance(b, Tensor):
            return torch.where(removed[:, None], b, self.x)
        return b(removed, self.x)
