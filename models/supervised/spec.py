"""Fields that every training of an image classifier shares. Torch-free."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from models.core.errors import SpecError
from models.core.needs import WEIGHTS, ArtifactNeed, Bound, DatasetNeed, Need
from models.core.spec import (
    FIGURE_DATA,
    VECTOR,
    ArtifactInfo,
    ArtifactRef,
    DatasetRef,
    Int,
    MetricInfo,
    Optimizer,
    Spec,
    SpecGroup,
)
from models.data.builtin import BUILTIN
from models.data.spec import ImageOptions, Loading, image_bounds
from models.nets.library_spec import ForeignNet, ProgramNet
from models.nets.spec import Net

# kinds that leave a net as models/nets/files.py loads it, and the names of its files
CLASSIFIERS = ("dynamic_downsampling.train", "freetickets.train", "selective_convolution.train")
CLASSIFIER_FILES = ("weights.*", "export.*", "tickets/*", "checkpoints/*")
# fields that a stored spec always has, since defaults are filled in; one by hand may leave them out
PROGRAM_FROM = 100  # steps: torch.export alone takes the 5 s of so short a training
OTHERS = {"library", "dataset"}  # fields of nets that are not the project's own
PROGRAM = (
    "torch.export.save(torch.export.export(net, (images,), dynamic_shapes=({0: DYNAMIC, 2: DYNAMIC,"
    " 3: DYNAMIC},)), 'net.pt2') with DYNAMIC = torch.export.Dim.DYNAMIC, and two images or more"
)
FILLED_IN = {"images", "optimizer", "budget", "precision"}
# what models/supervised/loop.py reports of every training
METRICS = (
    MetricInfo("loss", "nats", "min", "mean cross-entropy of the last steps"),
    MetricInfo("lr", "1", None, "learning rate"),
    MetricInfo("images_per_s", "1/s", "max", "training images a second"),
    MetricInfo("validation_accuracy", "share", "max", "validation images classified right"),
    MetricInfo("validation_nll", "nats", "min", "mean cross-entropy of the validation images"),
    MetricInfo("test_accuracy", "share", "max", "test images classified right, at the end"),
    MetricInfo("test_nll", "nats", "min", "mean cross-entropy of the test images, at the end"),
)


# what models/supervised/assess.py leaves of every training
ASSESSMENT = (
    ArtifactInfo("classes.csv", "table", "a row a class: images, predictions, test accuracy"),
    ArtifactInfo("confusion.csv", "table", "test images by true and predicted class"),
    ArtifactInfo("confusion.png", "image", "which classes are taken for which"),
    VECTOR,
    FIGURE_DATA,
)
# what models/supervised/outputs.py leaves of every training of one net
EXPORTS = (
    ArtifactInfo("net.onnx", "export", "normalised images to logits, any batch"),
    ArtifactInfo("net.pt2", "export", "the same for torch.export.load", on_request=True),
    ArtifactInfo("model_card.md", "report", "what the net is, how good, and how to use it"),
)
# what it leaves beside the weights of a net of timm
CONFIG = ArtifactInfo(
    "config.json",
    "export",
    "of a net of timm: with the weights as model.safetensors, a folder that timm loads",
    on_request=True,
)
CALIBRATION = ArtifactInfo("calibration.png", "image", "accuracy of the test against confidence")


def metrics_of(prefix: str, training: str) -> tuple[MetricInfo, ...]:
    """The same of a further training in the job, whose ``SubRun`` has this prefix."""
    return tuple(
        metric._replace(name=f"{prefix}{metric.name}", description=f"{metric.name} of {training}")
        for metric in METRICS
    )


BASELINE_METRICS = metrics_of("baseline_", "the plain run")


def _need_of(weights: Any) -> Need | None:
    """What must be that a training starts from; None if it is no file of a user."""
    if isinstance(weights, ArtifactRef):
        return ArtifactNeed("/model/weights", WEIGHTS, CLASSIFIERS, CLASSIFIER_FILES)
    if not isinstance(weights, DatasetRef):
        return None
    remedy = "save the state_dict of the net by safetensors.torch.save_file and upload that"
    bound = Bound("operations", 0, 0, field="/model/weights", remedy=remedy)
    return DatasetNeed("/model/weights", {"a net": (bound,)})


class Budget(SpecGroup):
    """Ends of a training before its last step."""

    max_seconds: float | None = Field(
        default=None, gt=0, le=31_536_000, description="Stop after this many seconds of training"
    )
    target_accuracy: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Stop once the accuracy on validation images reaches this share",
    )
    patience: Int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Stop after so many epochs without a better accuracy on validation images;"
        " those of cheap steps alone do not count",
    )


class SupervisedSpec(Spec):
    """A net, image data, and how long and how to train.

    A kind that trains no nets of libraries says why in ``own_nets``.
    """

    own_nets: ClassVar[str] = ""

    model: Net  # each kind narrows it to the families that it trains
    data: DatasetRef = Field(description="Labelled images to train and to test on")
    images: ImageOptions = ImageOptions()
    loading: Loading = Field(
        default="auto",
        description="memory decodes all images once, stream each time they are needed, for sets"
        " that do not fit; auto streams pictures that take more than 4 GiB decoded. Both give the"
        " same training of smaller sets but for cheap steps, whose JPEGs stream decodes at a part"
        " of their size, and resized_crop, whose parts it takes of whole pictures",
    )
    validation: float = Field(
        default=0.1,
        ge=0,
        le=0.5,
        description="Share of the training images held out, of each class alike, drawn by the seed:"
        " best checkpoint and target_accuracy go by them, test images are read at the end. 0 trains"
        " on all images, and goes by the test images",
    )
    epochs: Int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Passes over the training images; 10 when max_steps is not given either",
    )
    max_steps: Int | None = Field(
        default=None, ge=1, le=10_000_000, description="Optimizer steps, in place of epochs"
    )
    batch_size: Int = Field(
        default=128,
        ge=2,
        le=65_536,
        description="Images a step, over all devices together; where it is left out and there are"
        " fewer images, all of them",
    )
    accumulate: Int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Parts of a batch that pass the net one after the other before a step, with the"
        " memory of one part; batch norms see parts, and a batch is a multiple of them",
    )
    optimizer: Optimizer = Optimizer()
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Decay of a moving average of the weights over the steps, such as 0.999: it is"
        " what is tested and left; null leaves the last weights",
    )
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of each training label that is spread over all classes alike",
    )
    precision: Literal["fp32", "bf16", "auto"] = Field(
        default="auto", description="Number format of the forward pass; auto is bf16 on a GPU"
    )
    channels_last: bool = Field(default=True, description="Keep images as NHWC in memory")
    compile: Literal["off", "graphs", "auto"] = Field(
        default="auto",
        description="graphs records one CUDA graph a kind of step, transfers between GPUs included;"
        " auto does on GPUs",
    )
    budget: Budget = Budget()

    @field_validator("model", mode="before")
    @classmethod
    def _of_a_library(cls, value: Any) -> Any:
        if cls.own_nets and isinstance(value, dict) and not value.keys().isdisjoint(OTHERS):
            which = f"net of {value['library']}" if "library" in value else "exported program"
            raise ValueError(
                f"no {which} is trained by this kind: {cls.own_nets}; or train it by"
                " dynamic_downsampling.train"
            )
        return value

    @model_validator(mode="after")
    def _one_length(self) -> "SupervisedSpec":
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError("give epochs or max_steps, not both")
        return self

    @model_validator(mode="after")
    def _parts_and_patience(self) -> "SupervisedSpec":
        k = self.accumulate
        if k > 1 and "batch_size" in self.model_fields_set and self.batch_size % k:
            least, most = self.batch_size // k * k, -(-self.batch_size // k) * k
            raise ValueError(
                f"accumulate {k} does not divide batch_size {self.batch_size}: give a multiple,"
                f" such as {max(least, 2 * k)} or {max(most, 2 * k)}, or another accumulate"
            )
        if 2 * k > self.batch_size:
            raise ValueError(
                f"accumulate {k} leaves fewer than 2 of the {self.batch_size} images of a batch to"
                f" each part: give at most {self.batch_size // 2}"
            )
        if self.budget.patience is not None and not self.validation:
            raise ValueError(
                "budget.patience goes by validation images, and validation 0 holds none out: give a"
                " share such as 0.1, or leave patience out"
            )
        return self

    @model_validator(mode="after")
    def _can_stream(self) -> "SupervisedSpec":
        if self.loading == "stream" and self.data.dataset in BUILTIN:
            raise ValueError(
                "loading stream reads pictures that were uploaded, and"
                f" {self.data.dataset} is built in: leave loading out"
            )
        return self

    def needs(self) -> Iterator[Need]:
        """Labelled images of two classes or more, and as many as are asked for."""
        yield from super().needs()
        bounds = image_bounds(self.images.image_size, self.images.subset)
        yield DatasetNeed("/data", {"labelled images": bounds})
        if isinstance(self.model, ForeignNet) and (need := _need_of(self.model.weights)):
            yield need
        if isinstance(self.model, ProgramNet):
            yield DatasetNeed("/model", {"a net": tuple(self.program_bounds())})

    def program_bounds(self) -> Iterator[Bound]:
        """What an exported program must be to be trained as this spec asks."""
        weights = "weights alone are no net; name its library and give them as model.weights, or"
        yield Bound("operations", 1, remedy=f"{weights} {PROGRAM}", required=True)
        yield Bound("open_batch", 1, remedy=f"export it for any number of images: {PROGRAM}")
        if (side := self.images.image_size) is not None:
            for name in ("height", "width"):
                remedy = "give the size that the program was exported for, or export it for any"
                yield Bound(name, side, side, field="/images/image_size", remedy=remedy)

    def check_program(self, counts: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse a program of another form than the images, as far as both are known.

        Args:
            counts: of the datasets by name.

        Raises:
            SpecError: naming what differs.
        """
        if not isinstance(self.model, ProgramNet):
            return
        known, program = counts.get(self.data.dataset, {}), counts.get(self.model.dataset, {})
        sides = () if self.images.image_size else ("height", "width")
        for name in ("channels", *sides):
            if name in known and program.get(name, known[name]) != known[name]:
                raise SpecError(
                    f"the program {self.model.dataset} was exported for a {name} of"
                    f" {program[name]}, the images of {self.data.dataset} have {known[name]}",
                    hint="give images.image_size, or export the program anew"
                    if name in sides
                    else "export the program for such images",
                    pointer="/images/image_size" if name in sides else "/model/dataset",
                )

    @classmethod
    def upgrade(cls, stored: dict[str, Any]) -> list[str]:
        """Specs of earlier releases held nothing out and squashed; see :meth:`Spec.upgrade`."""
        if stored.keys() >= FILLED_IN:
            stored.setdefault("validation", 0.0)
            stored["images"] = {"fit": "squash"} | stored["images"]
        return []

    def held(self, train: int) -> int:
        """Images held out for validation, of so many; of fewer than four none."""
        return 0 if train < 4 or not self.validation else max(1, round(self.validation * train))

    def used(self, train: int) -> int:
        """Training images of the run, of so many in the set.

        Raises:
            SpecError: if a step asks for more.
        """
        images = min(self.images.subset or train, train)
        images -= self.held(images)
        if self.batch_size > images and "batch_size" in self.model_fields_set:
            raise SpecError(
                f"batch_size {self.batch_size} is more than the {images} training images: lower it"
                " or leave it out, or hold out a smaller share for validation",
                pointer="/batch_size",
            )
        if images < 2 * self.accumulate:
            raise SpecError(
                f"accumulate {self.accumulate} leaves fewer than 2 of the {images} training images"
                f" to each part: give at most {images // 2}",
                pointer="/accumulate",
            )
        return images

    def net(self) -> dict[str, Any]:
        """What a file must tell so that ``nets.build`` makes the trained net again."""
        return self.model.architecture()

    def wants_program(self, steps: int) -> bool:
        """Whether a training of so many steps leaves a program of ``torch.export``."""
        asked = self.program_asked
        return steps >= PROGRAM_FROM if asked is None else asked

    @property
    def program_asked(self) -> bool | None:
        """What the spec says of it; the field differs by kind."""
        return None

    def batch(self, images: int) -> int:
        """Images a step, given the number of training images; a multiple of ``accumulate``."""
        whole = min(self.batch_size, images)
        return whole - whole % self.accumulate

    def steps(self, images: int) -> tuple[int, int]:
        """Steps of an epoch and of the run; an incomplete last batch of an epoch is dropped."""
        per_epoch = images // self.batch(images)
        return per_epoch, self.max_steps or (self.epochs or 10) * per_epoch
