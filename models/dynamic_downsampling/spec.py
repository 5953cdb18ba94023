"""Specs of training with dynamic input and kernel downsampling. Torch-free."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from models.core.errors import SpecError
from models.core.needs import Bound
from models.core.spec import MACS, ArtifactInfo, Estimate, MetricInfo
from models.data.spec import check_one_size
from models.dynamic_downsampling import cost, schedule
from models.dynamic_downsampling.fields import Downsample
from models.nets.library_spec import ForeignNet, ProgramNet, net_tag
from models.nets.spec import ResidualNet, conv_shapes
from models.supervised.spec import (
    ASSESSMENT,
    BASELINE_METRICS,
    CALIBRATION,
    CONFIG,
    EXPORTS,
    METRICS,
    PROGRAM,
    SupervisedSpec,
    metrics_of,
)

PROBED = 20  # steps of each kind that a plan takes; the first five do not count


def _growing(half: float, three_quarters: float) -> dict[str, Any]:
    """Fields for images of half the side until ``half``, then three quarters, then full."""
    intervals = [
        {"start": 0.0, "end": half},
        {"start": half, "end": three_quarters, "input_scale": 0.75},
    ]
    schedule = {"type": "list", "intervals": intervals}
    return {"schedule": schedule, "kernel_pool": "none", "rate_over": "operations"}


class Downsampled(SupervisedSpec):
    """A training with cheap steps: the fields that planning it and doing it have in common."""

    model: Annotated[
        Annotated[ForeignNet, Tag("library")]
        | Annotated[ProgramNet, Tag("program")]
        | Annotated[ResidualNet, Tag("own")],
        Discriminator(net_tag),
    ]
    downsample: Downsample = Downsample()
    compare_baseline: bool = Field(
        default=False,
        description="Afterwards train plain nets of the same seed, one of as many steps and one cut"
        " to the time of this training; report the saving and what each comes to",
    )
    export: bool | None = Field(
        default=None,
        description="Leave net.pt2, for torch.export.load: normalised images to logits, any batch;"
        " null does from 100 steps on",
    )

    @property
    def program_asked(self) -> bool | None:
        """Field ``export``."""
        return self.export

    @model_validator(mode="after")
    def _fits(self) -> "Downsampled":
        layers = self.downsample.kernel_layers
        if layers == "auto" and self.deterministic:
            raise ValueError("kernel_layers auto decides by timing: name the layers, or all")
        if isinstance(layers, list) and isinstance(self.model, ResidualNet):
            self._check_layers(self.model, layers)
        if self.images.image_size is not None:
            self.check_sizes(self.images.image_size, self.images.image_size)
        return self

    def program_bounds(self) -> Iterator[Bound]:
        """As of every training; cheap images need open sides."""
        yield from super().program_bounds()
        down = self.downsample
        if down.schedule.type != "off" and min(down.scales) < 1:
            remedy = "cheap steps see smaller images; give schedule type off, input_scale 1, or"
            at = "/downsample/input_scale"
            yield Bound("open_sides", 2, field=at, remedy=f"{remedy} {PROGRAM}")

    def _check_layers(self, model: ResidualNet, patterns: list[str]) -> None:
        large = [shape.name for shape in conv_shapes(model, 3, 32, 32) if shape.kernel > 1]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in large):
                raise ValueError(
                    f"kernel_layers: {pattern!r} names no convolution of {model.name};"
                    f" its 3x3 and larger ones are {', '.join(large)}"
                )

    def check_sizes(self, height: int, width: int) -> None:
        """Refuse what cannot be downsampled.

        Args:
            height: of the full images, in pixels.
            width: of the full images, in pixels.

        Raises:
            SpecError: if a cheap image is no smaller, or a cheap feature map is below 2 x 2.
        """
        down = self.downsample
        if down.schedule.type == "off":
            return
        for scale in down.scales:
            self._check_scale(scale, height, width)

    def _check_scale(self, scale: float, height: int, width: int) -> None:
        down = self.downsample
        cheap = cost.cheap_size(height, width, scale, down.size_multiple)
        if scale < 1 and cheap == (height, width):
            raise SpecError(
                f"input_scale {scale} with size_multiple {down.size_multiple} leaves"
                f" images of {height} x {width} as they are: lower size_multiple",
                pointer="/downsample/size_multiple",
            )
        if not isinstance(self.model, ResidualNet):
            return  # a worker, which has its library, tries it at each size
        smallest = min(min(shape.out) for shape in conv_shapes(self.model, 3, *cheap))
        if smallest < 2:
            raise SpecError(
                f"input_scale {scale} gives images of {cheap[0]} x {cheap[1]} and"
                f" feature maps below 2 x 2 in {self.model.name}: raise input_scale or"
                " images.image_size",
                pointer="/downsample",
            )

    def check_epoch(self, images: int) -> None:
        """Refuse a cheap step of more batches than an epoch has.

        Raises:
            SpecError: if so, given the number of training images.
        """
        down, per_epoch = self.downsample, self.steps(images)[0]
        if down.schedule.type != "off" and down.cheap_batch_multiplier > per_epoch:
            raise SpecError(
                f"downsample.cheap_batch_multiplier {down.cheap_batch_multiplier} is more than the"
                f" {per_epoch} batches of an epoch: lower it or batch_size",
                pointer="/downsample/cheap_batch_multiplier",
            )

    def estimate(self, counts: Mapping[str, Mapping[str, Any]]) -> Estimate:
        """Steps, operations of a cheap step over a full one (r) and the predicted saving p(1-r).

        Raises:
            SpecError: if data of these ``counts`` cannot be downsampled as asked.
        """
        known = counts.get(self.data.dataset, {})
        check_one_size(self.images.image_size, known)
        self.check_program(counts)
        shares, total, details = self._shares(known)
        height = self.images.image_size or known.get("height")
        width = self.images.image_size or known.get("width")
        if height and width:
            self.check_sizes(height, width)
        if height and width and isinstance(self.model, ResidualNet):
            shape = (known.get("channels", 3), height, width)
            down, classes = self.downsample, known.get("classes", 10)
            costs = [cost.step_costs(self.model, down, shape, classes, x) for x in down.scales]
            ratio = schedule.mean_ratio([x.ratio for x in costs], shares)
            full = costs[0].full_macs
            details |= {"full_macs": full, "cheap_macs": round(ratio * full), "flop_ratio": ratio}
            if total is not None:
                details["predicted_saving"] = sum(shares) * (1 - ratio)
        work = self._work(known, total, details)
        if total is not None and self.compare_baseline:
            total *= 3  # the last training is shorter
        return Estimate(total_steps=total, details=details, **work)

    def _work(
        self,
        known: Mapping[str, Any],
        steps: int | None,
        details: Mapping[str, float | int | str | None],
    ) -> dict[str, Any]:
        """Multiply-adds of the forward passes, those of a comparison included."""
        if steps is None or "full_macs" not in details:
            return {}
        images = steps * self.batch(self.used(known["train"]))
        trainings = 1 - float(details["predicted_saving"] or 0) + 2 * self.compare_baseline
        return {"work": images * float(details["full_macs"] or 0) * trainings, "work_unit": MACS}

    def _shares(
        self, known: Mapping[str, Any]
    ) -> tuple[list[float], int | None, dict[str, float | int | str | None]]:
        """Shares of cheap batches by scale, and steps, where the number of images is known."""
        down = self.downsample
        if "train" not in known:
            return [0.0 for _ in down.scales], None, {}
        images = self.used(known["train"])
        self.check_epoch(images)
        per_epoch, steps = self.steps(images)
        shares = schedule.expected_shares(down, steps, per_epoch)
        cheap = round(sum(shares) * steps / down.cheap_batch_multiplier)
        if cheap == 0 and down.schedule.type != "off":
            raise SpecError(
                f"none of the {steps} steps would be cheap: widen downsample.schedule, lower"
                " refine_fraction or warmup_full_fraction, train longer, or use schedule type off"
                " for a plain run",
                pointer="/downsample/schedule",
            )
        return shares, steps, {"cheap_steps": cheap, "cheap_share": sum(shares)}


class DynamicDownsamplingTrain(Downsampled):
    """Train a net with some steps on shrunken images and pooled filters."""

    entry: ClassVar[str] = "models.dynamic_downsampling.train:train"
    resumable: ClassVar[bool] = True
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        *METRICS,
        MetricInfo("gradient_cosine", "1", "max", "cosine of cheap and full gradient, one batch"),
        MetricInfo("gradient_norm_ratio", "1", None, "norm of the cheap gradient over the full"),
        *BASELINE_METRICS,
        *metrics_of("shorter_", "the plain run cut to equal time"),
    )
    artifacts: ClassVar[tuple[ArtifactInfo, ...]] = (
        ArtifactInfo("weights.safetensors", "weights", "final net, loads into the plain one"),
        *EXPORTS,
        CONFIG,
        ArtifactInfo("checkpoints/step-*.safetensors", "checkpoint", "state to resume from"),
        ArtifactInfo("report.json", "report", "all figures of the result, layers, versions"),
        ArtifactInfo("history.csv", "table", "a row an epoch: accuracy, seconds, operations"),
        ArtifactInfo("curves.png", "image", "loss and accuracy against training time"),
        *ASSESSMENT,
        CALIBRATION,
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "digits": {
            "kind": "dynamic_downsampling.train",
            "model": {"name": "resnet8"},
            "data": {"dataset": "digits"},
            "images": {"image_size": 32, "augment": {"crop_padding": 2}},
            "epochs": 20,
            "batch_size": 64,
            "downsample": _growing(0.5, 0.74),
        },
        "cifar10-gpu": {
            "kind": "dynamic_downsampling.train",
            "model": {"name": "resnet18"},
            "data": {"dataset": "cifar10"},
            "images": {"augment": {"crop_padding": 4, "flip": True}},
            "epochs": 40,
            "batch_size": 512,
            "optimizer": {"lr": 0.4},
            "downsample": {
                "schedule": {"type": "list", "intervals": [{"start": 0.0, "end": 0.66}]},
                "kernel_pool": "none",
                "rate_over": "operations",
            },
        },
        "cifar10-cpu": {
            "kind": "dynamic_downsampling.train",
            "model": {"name": "resnet8"},
            "data": {"dataset": "cifar10"},
            "images": {"subset": 10_000, "augment": {"crop_padding": 4, "flip": True}},
            "epochs": 30,
            "batch_size": 64,
            "downsample": _growing(0.46, 0.72),
        },
    }
    example: ClassVar[Mapping[str, Any]] = {
        "kind": "dynamic_downsampling.train",
        "model": {"name": "resnet8"},
        "data": {"dataset": "digits"},
        "images": {"image_size": 16, "augment": {"crop_padding": 1}},
        "epochs": 8,
        "batch_size": 64,
        "downsample": {"schedule": {"type": "periodic", "period": 5, "n_cheap": 3}},
    }

    kind: Literal["dynamic_downsampling.train"] = Field(init=False)


class DynamicDownsamplingPlan(Downsampled):
    """Time a few full and cheap steps of a training and predict what it would save."""

    entry: ClassVar[str] = "models.dynamic_downsampling.plan:plan"
    metrics: ClassVar[tuple[MetricInfo, ...]] = metrics_of("probe_", "the steps that were timed")
    artifacts: ClassVar[tuple[ArtifactInfo, ...]] = (
        ArtifactInfo("plan.json", "report", "predicted saving and seconds; each layer, timed"),
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {**fields, "kind": "dynamic_downsampling.plan"}
        for name, fields in DynamicDownsamplingTrain.presets.items()
    }
    example: ClassVar[Mapping[str, Any]] = presets["digits"]

    kind: Literal["dynamic_downsampling.plan"] = Field(init=False)

    @property
    def probe_steps(self) -> int:
        """Batches of the probe, in which both kinds of steps take turns."""
        down = self.downsample
        return 2 * PROBED * down.cheap_batch_multiplier * len(down.scales)

    def estimate(self, counts: Mapping[str, Mapping[str, Any]]) -> Estimate:
        """As for the training, but for the steps, which are those of the probe."""
        planned = super().estimate(counts)
        steps: dict[str, Any] = {"total_steps": self.probe_steps}
        if planned.total_steps is not None and planned.work_unit == MACS:
            steps["work"] = planned.work * self.probe_steps / planned.total_steps
        return planned.model_copy(update=steps)
