"""An image to explain, as every saliency method and grader receives it."""

import dataclasses
import threading
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


class ScoreRange:
    """Smallest and largest score of each class over the images of a method; several threads add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bounds: tuple[Tensor, Tensor] | None = None

    def add(self, scores: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Take note of scores, and return them."""
        low, high = scores.amin(0), scores.amax(0)
        with self._lock:
            if self._bounds is not None:
                low, high = low.minimum(self._bounds[0]), high.maximum(self._bounds[1])
            self._bounds = low, high
        return scores

    def constant(self, full: Float[Tensor, "k"], dtype: torch.dtype) -> Bool[Tensor, "k"]:
        """Whether no score differed from that of the unperturbed image, but for rounding.

        Args:
            full: scores of the unperturbed image.
            dtype: of the net.
        """
        if self._bounds is None:
            return torch.zeros_like(full, dtype=torch.bool)
        low, high = self._bounds[0].minimum(full), self._bounds[1].maximum(full)
        rounding = min(8 * torch.finfo(dtype).eps, 1e-6)
        return high - low <= rounding * low.abs().maximum(high.abs())


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
        score_range: of the images that a method has scored.
    """

    x: Float[Tensor, "c h w"]
    scorer: Scorer
    targets: Int64[Tensor, "k"]
    full: Float[Tensor, "k"]
    seed: int
    chunk: int
    pixels: Float[Tensor, "c h w"] | None = None
    reported: dict[str, int] = dataclasses.field(default_factory=dict)
    score_range: ScoreRange = dataclasses.field(default_factory=ScoreRange)

    def with_seed(self, seed: int) -> "Case":
        """The same case with another seed."""
        return dataclasses.replace(self, seed=seed, reported={}, score_range=ScoreRange())

    def rescored(self, **changes: Any) -> "Case":
        """A copy with other fields; ``full`` is computed for them, which costs one row."""
        other = dataclasses.replace(self, reported={}, score_range=ScoreRange(), **changes)
        other.full = other.score(other.x[None])[0]
        return other

    def reason_for_zeros(self, k: int) -> str:
        """Why the map of the k-th target is zero throughout, and what to do."""
        reason = "is zero throughout: no score of the class moved"
        if self.scorer.saturated(self.full)[k]:
            return f"{reason}, because its probability is saturated at 1; use score 'logit'"
        return reason

    def score(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Scores of the k classes for a batch, float64."""
        scores = self.scorer.scores(self.scorer.outputs(images))[:, self.targets]
        return self.score_range.add(scores)

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
        return self.score_range.add(self.scorer.scores(out)[:, self.targets])

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
