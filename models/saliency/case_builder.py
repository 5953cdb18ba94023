"""From a spec to the cases of its images: the net, the images, the scores of each image."""

from collections.abc import Callable
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from models.core.run import Run
from models.saliency import philox
from models.saliency.figures.maps import SCORES
from models.saliency.methods.case import Case
from models.saliency.net import load
from models.saliency.net.images import ExplainedImages, choose_targets, load_others, prepare
from models.saliency.net.known import ImageLabels
from models.saliency.net.run import RowCounter, chunk_size, open_net
from models.saliency.net.scores import SATURATION, Scorer, dtype_of, probe
from models.saliency.spec.fields import ImageRef
from models.saliency.spec.map import Explanation

IMAGE_STEP = 0x85EBCA6B  # odd, and no step of Philox' own keys


class CaseBuilder:
    """The net and the images of a spec, and the case of each image.

    Attributes:
        spec: of the job.
        subject: the net to explain.
        images: as stored, uint8 [h, w, c] each.
        rows: counts rows through the net.
        warn: takes the code and the text of a warning about an image; the run's own.

    Raises:
        SpecError: if the spec does not fit the net or the images, or the net cannot be read.
        DataError: if an image cannot be used.
    """

    def __init__(self, spec: Explanation, run: Run) -> None:
        self.spec, self._run = spec, run
        self.warn: Callable[[str, str], None] = run.warn
        self.subject = load.load_subject(spec, run)
        self.images = ExplainedImages(spec, run)
        load_others(spec, run, self.subject)
        self.rows = RowCounter(run, spec.rows(*self.subject.size))

    @cached_property
    def scorer(self) -> Scorer:
        """Runs the net; its plan is made at the first use, within ``arithmetic(spec)``."""
        return open_net(self.spec, self.subject, self.rows)

    @cached_property
    def labels(self) -> ImageLabels:
        """The classes that the datasets tell of the images, among those of the net."""
        return ImageLabels(self.spec, self._run, self.subject.classes)

    @property
    def outputs(self) -> str:
        """What outputs are of: ``classes``, of which one holds; ``labels``; or ``regression``."""
        return self.scorer.meaning.kind

    @property
    def score_word(self) -> str:
        """What the score is called in pictures and reports."""
        return "output" if self.outputs == "regression" else SCORES[self.spec.score]

    @cached_property
    def chunk(self) -> int:
        """Images per forward pass."""
        return chunk_size(self.spec, self.scorer, self.subject.size, self._run.device)

    def build(self, position: int) -> tuple[Case, Float[Tensor, "classes"]]:
        """The case of an image with the net's outputs for it.

        The first image of a job also probes the net.

        Raises:
            SpecError: if the net's output cannot be explained.
            DataError: if the channels of the image do not fit the net.
        """
        pixels = prepare(self.images[position], self.subject, f"images.{position}")
        pixels = pixels.to(self._run.device)
        x = self.subject.space.normalise(pixels).to(dtype_of(self.subject.net))
        if position == 0 and self.rows.done == 0:
            probe(self.scorer, x)
            self._tell_meaning()
        outputs = self.scorer.outputs(x[None])
        targets = choose_targets(
            self.spec.target, outputs[0], lambda: self.labels.target_of(position)
        )
        index = torch.tensor(targets, device=x.device)
        full = self.scorer.scores(outputs)[0, index]
        self._warn_of_saturation(f"images.{position}", targets, full)
        seed = image_seed(self.spec.seed, position)
        return Case(x, self.scorer, index, full, seed, self.chunk, pixels), outputs[0]

    def _tell_meaning(self) -> None:
        """Warn where ``prob`` reads outputs as they are, by the net's last operation."""
        meaning = self.scorer.meaning
        if self.spec.score != "prob" or self.spec.output_type != "auto" or not meaning.applied:
            return
        labels = meaning.kind == "labels"
        self._run.warn(
            "outputs_are_labels" if labels else "outputs_are_probabilities",
            "the outputs of the net are probabilities of "
            + ("labels, each by itself (it ends in a sigmoid)" if labels else "classes already")
            + "; score 'prob' reads them as they are",
        )

    def _warn_of_saturation(self, field: str, targets: list[int], full: Float[Tensor, "k"]) -> None:
        for target, saturated in zip(targets, self.scorer.saturated(full).tolist(), strict=True):
            if saturated:
                name = self.subject.classes[target]
                self.warn(
                    "score_saturated",
                    f"{field}: the probability of {name!r} is 1 but for {SATURATION:g}; where it "
                    "stays there whatever is removed, maps are zero. Use score 'logit'",
                )


def image_seed(seed: int, position: int) -> int:
    """Seed of everything drawn for an image, so that images do not share their noise.

    Multiples of an odd number modulo 2**32: for 1,000 images and 1,000 neighbouring seeds all are
    different (tests), and the first image has the seed itself.
    """
    return (seed + position * IMAGE_STEP) & philox.WORD


def image_name(position: int, ref: ImageRef) -> str:
    """Folder of an image's maps: its position in the spec, its dataset and its index there."""
    return f"{position:03d}-{ref.dataset[:60].replace('.', '-')}-{ref.index}"
