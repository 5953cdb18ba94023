"""Spec of ``saliency.roar``: remove and retrain. Torch-free."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from models.core.spec import FIGURE_DATA, VECTOR, ArtifactInfo, Estimate, Int, MetricInfo
from models.data.spec import check_one_size
from models.nets.library_spec import ForeignNet, library_tag
from models.nets.spec import ResidualFamily
from models.saliency.spec.fields import Blur, Constant, Plain, labels
from models.saliency.spec.gradients import IntegratedGradients
from models.saliency.spec.masks import OcclusionRaw
from models.saliency.spec.methods import Control, Method, check_window
from models.supervised.spec import METRICS, SupervisedSpec

Share = Annotated[float, Field(gt=0, lt=1)]


class SaliencyRoar(SupervisedSpec):
    """Remove the pixels that saliency maps rank highest, retrain, and test (Hooker et al. 2019).

    Removal in random order, trained with the same seeds, is what methods are compared with.
    """

    entry: ClassVar[str] = "models.saliency.roar:roar"
    resumable: ClassVar[bool] = True
    metrics: ClassVar[tuple[MetricInfo, ...]] = METRICS
    artifacts: ClassVar[tuple[ArtifactInfo, ...]] = (
        ArtifactInfo("trainings.csv", "table", "A row for each training: method, share, seed"),
        ArtifactInfo("report.json", "report", "All numbers, comparisons with random removal"),
        ArtifactInfo("roar.png", "image", "Accuracy over the share of removed pixels"),
        VECTOR,
        FIGURE_DATA,
        ArtifactInfo("references.bib", "report", "Sources of what was used"),
        ArtifactInfo("checkpoints/step-*.safetensors", "checkpoint", "Trainings done so far"),
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "hooker2019": {
            "kind": "saliency.roar",
            "model": {"name": "resnet8"},
            "data": {"dataset": "cifar10"},
            "images": {"augment": {"crop_padding": 4, "flip": True}},
            "epochs": 30,
            "methods": [
                {"id": "gradient"},
                {"id": "integrated_gradients"},
                {"id": "occlusion", "window": 4, "stride": 2},
                {"id": "edge"},
            ],
            "shares": [0.1, 0.3, 0.5, 0.7, 0.9],
        },
    }
    example: ClassVar[Mapping[str, Any]] = {
        "kind": "saliency.roar",
        "model": {"name": "resnet8", "width": 16},
        "data": {"dataset": "digits"},
        "images": {"subset": 600},
        "max_steps": 60,
        "batch_size": 64,
        "methods": [{"id": "integrated_gradients", "steps": 8}],
        "shares": [0.3, 0.6],
        "seeds": [0, 1, 2],
    }

    kind: Literal["saliency.roar"] = Field(init=False)
    model: Annotated[
        Annotated[ForeignNet, Tag("library")] | Annotated[ResidualFamily, Tag("own")],
        Discriminator(library_tag),
    ]
    methods: list[Method] = Field(
        default=[IntegratedGradients(id="integrated_gradients")],
        min_length=1,
        max_length=8,
        description="Methods that rank the pixels, by maps of the class that the net chooses; "
        "controls but `random`, which is always there, as well",
    )
    baseline: Annotated[Plain | Constant | Blur, Field(discriminator="id")] = Field(
        default_factory=lambda: Plain(id="zero"),
        description="Baseline of the methods that use one; zero where left out",
    )
    score: Literal["prob", "logit", "logprob"] = Field(
        default="logit", description="Score whose maps rank the pixels"
    )
    shares: list[Share] = Field(
        default=[0.1, 0.3, 0.5, 0.7, 0.9],
        min_length=1,
        max_length=20,
        description="Shares of the pixels of each image that are replaced by the mean colour",
    )
    seeds: list[Int] = Field(
        default=[0, 1, 2, 3, 4],
        min_length=1,
        max_length=20,
        description="Each training is repeated with these, added to the seed; the net of the first "
        "makes the maps",
    )

    @model_validator(mode="after")
    def _comparable(self) -> "SaliencyRoar":
        for name in ("shares", "seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} has a value twice; give each once")
        for index, method in enumerate(self.methods):
            if isinstance(method, OcclusionRaw):
                raise ValueError(  # noqa: TRY004  # pydantic's way to refuse
                    f"methods.{index}: occlusion_raw gives a value a window, not a pixel; "
                    "use occlusion"
                )
            if isinstance(method, Control) and method.id == "random":
                raise ValueError(f"methods.{index}: random removal is always compared with")
            if (side := self.images.image_size) is not None:
                check_window(method, f"methods.{index}", side, side)
        return self

    @model_validator(mode="after")
    def _trained_anew(self) -> "SaliencyRoar":
        if isinstance(self.model, ForeignNet) and self.model.weights is not None:
            raise ValueError(
                "model.weights: nets start from random weights here, since trained ones may know "
                "the pixels that are removed; leave weights out"
            )
        if self.loading == "stream":
            raise ValueError("loading: all images are changed in memory; leave loading out")
        return self

    def arms(self) -> list[str]:
        """Labels of what ranks the pixels: random first, then the methods."""
        return ["random", *labels(self.methods)]

    def trainings(self) -> list[tuple[str, float, int]]:
        """Arm, share and seed of each training, in order; those of share 0 are of no arm."""
        seeds = [self.seed + seed for seed in self.seeds]
        whole = [("none", 0.0, seed) for seed in seeds]
        removed = [(arm, share, seed) for arm in self.arms() for share in self.shares
                   for seed in seeds]  # fmt: skip
        return whole + removed

    def estimate(self, counts: Mapping[str, Mapping[str, Any]]) -> Estimate:
        """Steps of all trainings, and the pixels that pass the net in them."""
        known = counts.get(self.data.dataset, {})
        check_one_size(self.images.image_size, known)
        number = len(self.trainings())
        details: dict[str, float | int | str | None] = {"trainings": number}
        if "train" not in known:
            return Estimate(details=details)
        used = self.used(known["train"])
        steps = number * self.steps(used)[1]
        height, width = (self.images.image_size or known.get(s, 32) for s in ("height", "width"))
        work = steps * self.batch(used) * height * width
        unit = f"pixels through {self.model.name}"
        return Estimate(total_steps=steps, details=details, work=work, work_unit=unit)
