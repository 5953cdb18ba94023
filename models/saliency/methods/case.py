"""An image to explain, as every saliency method and grader receives it."""

import dataclasses
from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from models.saliency.engine.boxes import Regions
from models.saliency.engine.incremental import BaseActivations
from models.saliency.engine.threads import each
from models.saliency.net.scores import Fill, Scorer

REGIONS_AT_ONCE = {"cpu": 16, "cuda": 96}  # regions propagated through the net as one batch


@dataclasses.dataclass
class Case:
    """An image with the classes to explain.

    Attributes:
        x: the image, normalised for the net.
        scorer: runs the net and turns its outputs into scores.
        targets: indices of the k classes.
        full: ``f(x)``, the scores of these classes for the unperturbed image, float64.
        seed: base seed of every random choice.
        chunk: images per forward pass.
        pixels: the image in [0, 1], for segments and edges; None stands for ``x``.
        reported: numbers that a method reports with its map.
    """

    x: Float[Tensor, "c h w"]
    scorer: Scorer
    targets: Int64[Tensor, "k"]
    full: Float[Tensor, "k"]
    seed: int
    chunk: int
    pixels: Float[Tensor, "c h w"] | None = None
    reported: dict[str, int] = dataclasses.field(default_factory=dict)

    def with_seed(self, seed: int) -> "Case":
        """The same case with another seed."""
        return dataclasses.replace(self, seed=seed, reported={})

    def rescored(self, **changes: Any) -> "Case":
        """A copy with other fields; ``full`` is computed for them, which costs one row."""
        other = dataclasses.replace(self, reported={}, **changes)
        other.full = other.score(other.x[None])[0]
        return other

    def score(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Scores of the k classes for a batch, float64."""
        return self.scorer.scores(self.scorer.outputs(images))[:, self.targets]

    def scores(
        self, images: Callable[[Int64[Tensor, "m"]], Float[Tensor, "m c h w"]], count: int
    ) -> Float[Tensor, "n k"]:
        """Scores of ``count`` images, which ``images`` builds from their indices batch by batch.

        On a CPU each core builds and scores batches of its own.
        """
        indices = torch.arange(count, device=self.x.device).split(self.chunk)
        batches = each(lambda index: self.score(images(index)), indices, self.x.device.type)
        return torch.cat(list(batches))

    def scores_with_replaced(
        self, key: Hashable, regions: Callable[[], Regions], b: Tensor | Fill
    ) -> Float[Tensor, "n k"]:
        """Scores with the pixels of each region taken from ``b``, float64.

        With a plan of the net only the boxes that a region affects are recomputed.

        Args:
            key: identifies the regions; for images of one size, equal keys mean equal regions.
            regions: builds the n regions; called only when no route is stored for ``key``.
            b: the baseline image [c, h, w], or a function that fills regions.
        """
        if self.scorer.plan is None:
            return self._scores_of_whole_images(regions(), b)
        size = REGIONS_AT_ONCE[self.x.device.type]
        out = self.scorer.outputs_with_replaced(
            self.x, b, key, regions, lambda: self._base_activations, size
        )
        return self.scorer.scores(out)[:, self.targets]

    @cached_property
    def _base_activations(self) -> BaseActivations:
        return self.scorer.base(self.x)

    def _scores_of_whole_images(self, regions: Regions, b: Tensor | Fill) -> Float[Tensor, "n k"]:
        return self.scores(lambda index: self.replace(regions.masks(index), b), regions.number)

    def replace(self, removed: Bool[Tensor, "n h w"], b: Tensor | Fill) -> Float[Tensor, "n c h w"]:
        """The image with removed pixels taken from the image ``b`` [c, h, w], or filled by it."""
        if isinstance(b, Tensor):
            return torch.where(removed[:, None], b, self.x)
        return b(removed, self.x)
