"""From a spec to the cases of its images: the net, the images, the scores of each image."""

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from models.core.run import Run
from models.saliency import philox
from models.saliency.methods.case import Case
from models.saliency.net import load
from models.saliency.net.images import choose_targets, load_images, load_others, prepare
from models.saliency.net.run import RowCounter, chunk_size, open_net
from models.saliency.net.scores import Scorer, dtype_of, probe
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

    Raises:
        SpecError: if the spec does not fit the net or the images, or the net cannot be read.
        DataError: if an image cannot be used.
    """

    def __init__(self, spec: Explanation, run: Run) -> None:
        self.spec, self._run = spec, run
        self.subject = load.load_subject(spec, run)
        self.images = load_images(spec, run)
        load_others(spec, run, self.subject)
        self.rows = RowCounter(run, spec.rows(*self.subject.size))

    @cached_property
    def scorer(self) -> Scorer:
        """Runs the net; its plan is made at the first use, within ``arithmetic(spec)``."""
        return open_net(self.spec, self.subject, self.rows)

    @property
    def outputs(self) -> str:
        """What outputs are of: ``labels``, each by itself, or ``classes``, of which one holds."""
        return "labels" if self.scorer.labels_alone(len(self.subject.classes)) else "classes"

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
            if self.spec.score == "prob" and self.outputs == "labels":
                self._run.warn(
                    "outputs_are_labels",
                    "the outputs of the net are probabilities of labels, each by itself (it ends "
                    "in a sigmoid); score 'prob' reads them as they are",
                )
        outputs = self.scorer.outputs(x[None])
        targets = choose_targets(self.spec.target, outputs[0])
        index = torch.tensor(targets, device=x.device)
        full = self.scorer.scores(outputs)[0, index]
        seed = image_seed(self.spec.seed, position)
        return Case(x, self.scorer, index, full, seed, self.chunk, pixels), outputs[0]


def image_seed(seed: int, position: int) -> int:
    """Seed of everything drawn for an image, so that images do not share their noise.

    Multiples of an odd number modulo 2**32: for 1,000 images and 1,000 neighbouring seeds all are
    different (tests), and the first image has the seed itself.
    """
    return (seed + position * IMAGE_STEP) & philox.WORD


def image_name(position: int, ref: ImageRef) -> str:
    """Folder of an image's maps: its position in the spec, its dataset and its index there."""
    return f"{position:03d}-{ref.dataset[:60].replace('.', '-')}-{ref.index}"
