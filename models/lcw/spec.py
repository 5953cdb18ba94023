"""Specs of training and sampling a latent Cramer-Wold generator. Torch-free."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from models.core.errors import SpecError
from models.core.needs import WEIGHTS, ArtifactNeed, Bound, DatasetNeed, Need
from models.core.spec import (
    FIGURE_DATA,
    VECTOR,
    ArtifactInfo,
    ArtifactOrVersion,
    ArtifactRef,
    DatasetRef,
    Estimate,
    Int,
    MetricInfo,
    Spec,
    SpecGroup,
)
from models.data.spec import check_one_size, image_bounds
from models.lcw.fields import MIN_BATCH, Architecture, GeneratorEvaluation, Phase1, Phase2

CLASSIFIER = "classifier.safetensors"
EXACT_ONLY_DIM = 3  # up to here the asymptotic kernel is refused


def net_need(pointer: str) -> ArtifactNeed:
    """Weights or a checkpoint of ``lcw.train`` at a pointer."""
    return ArtifactNeed(pointer, WEIGHTS, ("lcw.train",), ("weights.*", "checkpoints/*"))


class LcwImages(SpecGroup):
    """Which images, and how many of them are kept from training."""

    subset: Int | None = Field(
        default=None,
        ge=16,
        le=100_000_000,
        description="Training images to use, drawn by split_seed",
    )
    image_size: Int | None = Field(
        default=None, ge=4, le=256, description="Resize all images once to this side in pixels"
    )
    val_fraction: float = Field(
        default=0.1, ge=0.01, le=0.5, description="Share of the training images kept to validate"
    )
    split_seed: Int = Field(
        default=0, ge=0, lt=2**32, description="Of the subset and of what is kept to validate"
    )


class LcwTrain(Spec):
    """Train an autoencoder, then a generator of its latents by the Cramer-Wold distance."""

    entry: ClassVar[str] = "models.lcw.train:train"
    resumable: ClassVar[bool] = True
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo("autoencoder_loss", "1", "min", "objective of phase 1, mean of the last steps"),
        MetricInfo("autoencoder_validation", "1", "min", "objective of phase 1 on held-out images"),
        MetricInfo("generator_loss", "1", "min", "Cramer-Wold distance of latents, last steps"),
        MetricInfo("generator_validation", "1", "min", "the same against held-out latents"),
        MetricInfo("baseline_loss", "1", "min", "objective of a baseline's autoencoder"),
        MetricInfo("baseline_validation", "1", "min", "the same on held-out images"),
        MetricInfo("images_per_s", "1/s", "max", "training images a second"),
        MetricInfo("frechet", "1", "min", "Frechet distance of samples, in the chosen features"),
        MetricInfo("kid", "1", "min", "kernel distance of samples, in the chosen features"),
        MetricInfo("reconstruction", "1", "min", "sum of squares over a test image, values 0..1"),
    )
    artifacts: ClassVar[tuple[ArtifactInfo, ...]] = (
        ArtifactInfo("weights.safetensors", "weights", "encoder, decoder, latent generator"),
        ArtifactInfo("classifier.safetensors", "weights", "the classifier behind fd_clf, to share"),
        ArtifactInfo("checkpoints/step-*.safetensors", "checkpoint", "state to resume from"),
        ArtifactInfo("generator.onnx", "export", "noise to images, any batch"),
        ArtifactInfo("report.html", "report", "scores, curves and pictures on one page"),
        ArtifactInfo("report.json", "report", "all figures with their features, floors and seeds"),
        ArtifactInfo("*.png", "image", "samples, reconstructions, interpolations, and more"),
        VECTOR,
        FIGURE_DATA,
        ArtifactInfo("view.npz", "samples", "images that the page's viewer shows, uint8"),
        ArtifactInfo("view.json", "view", "what the page's viewer of images shows"),
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "digits": {
            "data": {"dataset": "digits"},
            "arch": {"latent_dim": 8, "width": 256},
            "phase1": {"max_steps": 1500},
            "phase2": {"max_steps": 1500},
            "evaluation": {"num_samples": 5000, "baselines": ["gmm10", "normal", "cwae"]},
        },
        "cifar10": {
            "arch": {"preset": "conv", "latent_dim": 64, "width": 64},
            "phase1": {"max_steps": 20_000, "lr": 1e-3, "schedule": "cosine"},
            "phase2": {"max_steps": 20_000},
        },
    }
    example: ClassVar[Mapping[str, Any]] = {
        "kind": "lcw.train",
        "data": {"dataset": "digits"},
        "arch": {"latent_dim": 8, "width": 128},
        "phase1": {"max_steps": 400},
        "phase2": {"max_steps": 400},
        "evaluation": {"num_samples": 1000, "baselines": ["normal"]},
    }

    kind: Literal["lcw.train"] = Field(init=False)
    data: DatasetRef = Field(description="Images to learn to draw")
    images: LcwImages = LcwImages()
    arch: Architecture = Architecture()
    phase1: Phase1 = Phase1()
    phase1_from: ArtifactOrVersion | None = Field(
        default=None,
        description="Weights of another lcw.train with this architecture: phase 1 is skipped",
    )
    phase2: Phase2 = Phase2()
    evaluation: GeneratorEvaluation = GeneratorEvaluation()

    @model_validator(mode="after")
    def _has_a_kernel(self) -> "LcwTrain":
        dim = self.arch.latent_dim
        if dim > EXACT_ONLY_DIM:
            return self
        for field, mode in (
            ("phase1.phi_latent", self.phase1.phi_latent),
            ("phase2.phi", self.phase2.phi),
        ):
            if mode in ("asymptotic", "imq"):
                raise ValueError(
                    f"{field} {mode} with arch.latent_dim {dim}: the asymptotic kernel errs by over"
                    " a tenth below 4 dimensions; use exact, or latent_dim of 4 or more"
                )
        return self

    def needs(self) -> Iterator[Need]:
        """Labelled images; nets of another ``lcw.train``; a program where features are one's."""
        yield from super().needs()
        bounds = image_bounds(self.images.image_size, self.images.subset)
        yield DatasetNeed("/data", {"labelled images": bounds})
        if self.phase1_from is not None:
            yield net_need("/phase1_from")
        if self.evaluation.classifier_from is not None:
            at = "/evaluation/classifier_from"
            yield ArtifactNeed(at, ("weights",), ("lcw.train",), (CLASSIFIER,))
        if self.evaluation.inception is not None:
            remedy = "upload it as torch.export.save writes it"
            program = Bound("operations", 1, remedy=remedy, required=True)
            still = "call net.eval() before torch.export.export"
            rests = Bound("training_operations", 0, 0, remedy=still)
            yield DatasetNeed("/evaluation/inception", {"a net": (program, rests)})

    def steps(self) -> dict[str, int]:
        """Optimizer steps of each stage, in order, at most."""
        first = 0 if self.phase1_from else self.phase1.max_steps
        stages = {"autoencoder": first, "generator": self.phase2.max_steps}
        total = self.phase1.max_steps + self.phase2.max_steps
        for name in self.evaluation.trained_baselines():
            stages[name] = total  # a peer gets as many steps as both phases together
        return {name: steps for name, steps in stages.items() if steps}

    def kept(self, train: int, test: int) -> int:
        """Images to train with, out of so many training images; the others validate.

        Raises:
            SpecError: if they are too few for a batch or, with those to test, for the scores.
        """
        used, share = self.images.subset or train, self.images.val_fraction
        if used > train:
            raise SpecError(
                f"images.subset {used} is more than the {train} training images",
                pointer="/images/subset",
            )
        held = math.ceil(used * share)
        if min(held, used - held) < MIN_BATCH:
            raise SpecError(
                f"images.val_fraction {share} of {used} training images leaves {used - held} to"
                f" train and {held} to validate; {MIN_BATCH} of each are needed: use more images"
                " or another fraction",
                pointer="/images/val_fraction",
            )
        self.evaluation.check(used - held, test)
        return used - held

    def check_batches(self, kept: int) -> None:
        """Refuse steps of more images than are kept to train with.

        Raises:
            SpecError: naming the phase.
        """
        for name, phase in (("phase1", self.phase1), ("phase2", self.phase2)):
            if phase.batch_size > kept and "batch_size" in phase.model_fields_set:
                raise SpecError(
                    f"{name}.batch_size {phase.batch_size} is more than the {kept} images to train"
                    " with: lower it or leave it out",
                    pointer=f"/{name}/batch_size",
                )

    def estimate(self, counts: Mapping[str, Mapping[str, Any]]) -> Estimate:
        """Steps of all stages; epochs of phase 1 where the size of the data is known.

        Raises:
            SpecError: if the images are too few, or do not suit this architecture.
        """
        known = counts.get(self.data.dataset, {})
        check_one_size(self.images.image_size, known)
        side = self.images.image_size or known.get("height")
        if side and known.get("channels"):
            square = self.images.image_size is not None or side == known.get("width", side)
            self.arch.check(side, known["channels"], square=square)
        details: dict[str, float | int | str | None] = dict(self.steps())
        if {"train", "test"} <= known.keys():
            kept = self.kept(known["train"], known["test"])
            self.check_batches(kept)
            details["autoencoder_epochs"] = (
                self.phase1.max_steps * min(self.phase1.batch_size, kept) / kept
            )
        images = sum(n * self._batch_of(stage) for stage, n in self.steps().items())
        work = {"work": images, "work_unit": f"images, nets {self.arch.preset}"}
        return Estimate(total_steps=sum(self.steps().values()), details=details, **work)

    def _batch_of(self, stage: str) -> int:
        """Images of a step; peers of the method take those of phase 1."""
        return (self.phase2 if stage == "generator" else self.phase1).batch_size


class Bundled(SpecGroup):
    """A generator that comes with the service."""

    pretrained: Literal["digits"] = Field(
        description="digits: 8 x 8 handwritten digits, trained by lcw.train"
    )


class LcwSample(Spec):
    """Draw images from a trained latent Cramer-Wold generator, interpolate, export it."""

    entry: ClassVar[str] = "models.lcw.sample:sample"
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo("samples", "images", None, "images drawn so far"),
    )
    artifacts: ClassVar[tuple[ArtifactInfo, ...]] = (
        ArtifactInfo("samples.npz", "samples", "images uint8 [n, h, w, c] and their noise"),
        ArtifactInfo("samples.png", "image", "the first of the samples"),
        VECTOR,
        ArtifactInfo("interpolations.png", "image", "strips between pairs of noise vectors"),
        ArtifactInfo("view.npz", "samples", "images that the page's viewer shows, uint8"),
        ArtifactInfo("view.json", "view", "what the page's viewer of images shows"),
        ArtifactInfo("generator.onnx", "export", "noise to images, any batch"),
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "digits": {"model": {"pretrained": "digits"}, "count": 256},
    }
    example: ClassVar[Mapping[str, Any]] = {
        "kind": "lcw.sample",
        "model": {"pretrained": "digits"},
        "count": 256,
    }

    kind: Literal["lcw.sample"] = Field(init=False)
    model: ArtifactOrVersion | Bundled = Field(
        description="Weights of lcw.train, or a bundled generator"
    )
    count: Int = Field(default=64, ge=1, le=1_000_000, description="Images to draw")
    interpolations: Int = Field(
        default=6, ge=0, le=32, description="Strips to draw, each linear and spherical; 0: none"
    )
    onnx: bool = Field(default=True, description="Leave the generator as ONNX, checked")

    def needs(self) -> Iterator[Need]:
        """A generator of ``lcw.train``, where none that comes with the service is named."""
        yield from super().needs()
        if isinstance(self.model, ArtifactRef):
            yield net_need("/model")

    def estimate(self, counts: Mapping[str, Mapping[str, Any]]) -> Estimate:
        """One step an image."""
        return Estimate(total_steps=self.count, work=self.count, work_unit="images")
