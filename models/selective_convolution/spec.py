"""Spec of training with selective allocation of channels. Torch-free."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from models.core.errors import SpecError
from models.core.spec import MACS, ArtifactInfo, Estimate, Int, MetricInfo, Optimizer
from models.data.spec import check_one_size
from models.nets.preactivation_spec import PreactivationNet, Role, Units, unit_shapes
from models.selective_convolution.fields import Selective
from models.supervised.spec import (
    ASSESSMENT,
    BASELINE_METRICS,
    CALIBRATION,
    EXPORTS,
    METRICS,
    SupervisedSpec,
)


class SelectiveConvolutionTrain(SupervisedSpec):
    """Train a net whose convolutions close channels of little use and read better ones twice."""

    entry: ClassVar[str] = "models.selective_convolution.train:train"
    own_nets: ClassVar[str] = (
        "its units are a norm, a ReLU and a convolution that alone reads them, of which nets of"
        " others have few: 8 of the 20 convolutions of resnet18, 0 in convnext, vit and"
        " efficientnet, 119 of 120 in densenet121, whose like it has itself; name one of its own,"
        " such as densenet40"
    )
    resumable: ClassVar[bool] = True
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        *METRICS,
        MetricInfo("closed", "slots", None, "slots closed in a round, over all units"),
        MetricInfo("reallocated", "slots", None, "slots opened again in a round as copies"),
        MetricInfo("open_share", "share", None, "slots open after a round"),
        MetricInfo("copy_share", "share", None, "slots that read another channel after a round"),
        MetricInfo("mean_abs_shift", "pixels", None, "mean |shift| of the copies after a round"),
        *BASELINE_METRICS,
    )
    artifacts: ClassVar[tuple[ArtifactInfo, ...]] = (
        ArtifactInfo("weights.safetensors", "weights", "final net with gates, sources and shifts"),
        ArtifactInfo(
            "export.safetensors", "weights", "the same net for inference, smaller", on_request=True
        ),
        *EXPORTS,
        ArtifactInfo("checkpoints/step-*.safetensors", "checkpoint", "state to resume from"),
        ArtifactInfo("report.json", "report", "all figures of the result, units, versions"),
        ArtifactInfo("history.csv", "table", "a row an epoch: loss, accuracy, seconds"),
        ArtifactInfo("allocation.csv", "table", "a row a round and unit: slots and copies"),
        ArtifactInfo("allocation.npz", "table", "gate, source and shift of each unit's slots"),
        ArtifactInfo("curves.png", "image", "loss and accuracy against training time"),
        *ASSESSMENT,
        CALIBRATION,
        ArtifactInfo("allocation.png", "image", "slots of each unit, over rounds and at the end"),
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "digits": {
            "kind": "selective_convolution.train",
            "model": {"name": "densenet40", "growth": 8, "layers": 2},
            "data": {"dataset": "digits"},
            "images": {"augment": {"crop_padding": 1}},
            "epochs": 20,
            "batch_size": 64,
            "selective": {"threshold": 0.1},
        },
        "paper-cifar10": {
            "kind": "selective_convolution.train",
            "model": {"name": "densenet40"},
            "images": {"augment": {"crop_padding": 4, "flip": True}},
            "epochs": 300,
            "batch_size": 64,
            "compare_with_plain": True,
        },
    }
    example: ClassVar[Mapping[str, Any]] = {
        "kind": "selective_convolution.train",
        "model": {"name": "densenet40", "growth": 8, "layers": 2},
        "data": {"dataset": "digits"},
        "images": {"augment": {"crop_padding": 1}},
        "epochs": 8,
        "batch_size": 64,
        "selective": {"threshold": 0.1},
    }

    kind: Literal["selective_convolution.train"] = Field(init=False)
    model: PreactivationNet
    optimizer: Optimizer = Optimizer(weight_decay=1e-4, warmup=0.0)
    batch_size: Int = Field(
        default=64,
        ge=2,
        le=65_536,
        description="Images a step, over all devices together; where it is left out and there are"
        " fewer images, all of them",
    )
    channels_last: bool | None = Field(  # ty: ignore[incompatible-attribute-override]  # a bool in fit
        default=None, description="Keep images as NHWC in memory; null does on a GPU alone"
    )
    selective: Selective = Selective()
    export: Literal["none", "compact", "integer_shift"] = Field(
        default="none",
        description="Also leave the net without closed slots and batch norms; integer_shift rounds"
        " the shifts to whole pixels, which then cost a copy",
    )
    program: bool | None = Field(
        default=None,
        description="Leave net.pt2, for torch.export.load: normalised images to logits, any batch;"
        " null does from 100 steps on",
    )
    compare_with_plain: bool = Field(
        default=False, description="Train the plain net of the same seed afterwards"
    )

    @property
    def program_asked(self) -> bool | None:
        """Field ``program``."""
        return self.program

    @model_validator(mode="after")
    def _fits(self) -> "SelectiveConvolutionTrain":
        chosen = self.selective
        if self.ema is not None:
            raise ValueError(
                "ema: a slot that is opened again reads another channel, and an average over both"
                " is of neither: leave it out"
            )
        if self.export != "none" and not chosen.enabled:
            raise ValueError(
                f"export {self.export} is of a selective net: set selective.enabled, or export none"
            )
        narrow = min(
            (s.c_in for s in unit_shapes(self.model) if self.reuses(s.role)), default=chosen.top_k
        )
        if chosen.enabled and chosen.opens and chosen.top_k > narrow:
            raise ValueError(
                f"selective.top_k {chosen.top_k} is more than the {narrow} channels of the"
                f" narrowest unit of {self.model.name}: give 0 to {narrow}, or a wider net"
            )
        if self.max_steps is None:
            self.check_rounds(self.batch_size)  # as many as epochs of one step have
        return self

    def reuses(self, role: Role) -> bool:
        """Whether units of a role use closed slots again."""
        return role == "reallocate" or (role == "prune" and self.selective.apply_to == "all")

    def net(self) -> dict[str, Any]:
        """What a file must tell so that ``nets.build`` makes the trained net again."""
        plain = self.model.model_dump()
        if not self.selective.enabled:
            return plain
        units = Units(form="selective", everywhere=self.selective.apply_to == "all")
        return plain | {"units": units.model_dump()}

    def rounds(self, images: int) -> int:
        """Rounds of closing and re-use in the run; there is none after its last step."""
        per_epoch, total = self.steps(images)
        ends = range((total - 1) // per_epoch)
        return sum(self.selective.is_round(epoch, total / per_epoch) for epoch in ends)

    def check_rounds(self, images: int) -> None:
        """Refuse a run that would never look at its channels.

        Raises:
            SpecError: naming the fields.
        """
        if self.selective.enabled and self.rounds(images) == 0:
            _, total = self.steps(images)
            raise SpecError(
                f"{total} steps with selective.active_fraction {self.selective.active_fraction} and"
                f" selective.interval_epochs {self.selective.interval_epochs} have no round of"
                " allocation",
                hint="give more epochs, a shorter interval, or selective.enabled false",
                pointer="/selective",
            )

    def estimate(self, counts: Mapping[str, Mapping[str, Any]]) -> Estimate:
        """Steps, rounds, parameters of the convolutions and operations of the plain net.

        Raises:
            SpecError: if the run would have no round of allocation.
        """
        known = counts.get(self.data.dataset, {})
        check_one_size(self.images.image_size, known)
        height = self.images.image_size or known.get("height", 32)
        width = self.images.image_size or known.get("width", 32)
        shapes = unit_shapes(self.model, known.get("channels", 3), height, width)
        details: dict[str, float | int | str | None] = {
            "convolution_weights": sum(shape.weights for shape in shapes),
            "forward_macs": sum(shape.macs for shape in shapes),
            "slots": sum(shape.c_in for shape in shapes if shape.role != "plain"),
        }
        if "train" not in known:
            return Estimate(details=details)
        images = self.used(known["train"])
        self.check_rounds(images)
        _, steps = self.steps(images)
        total = steps * (2 if self.compare_with_plain else 1)
        details["rounds"] = self.rounds(images)
        work = total * self.batch(images) * sum(shape.macs for shape in shapes)
        return Estimate(total_steps=total, work=work, work_unit=MACS, details=details)
