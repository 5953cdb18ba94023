"""Spec of ``saliency.map``: which net, which images, how to perturb them. Torch-free."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Discriminator, Field, Tag, model_validator

from models.core.errors import SpecError
from models.core.needs import Bound, DatasetNeed, Form, Need
from models.core.spec import (
    ArtifactInfo,
    ArtifactRef,
    Estimate,
    Int,
    MetricInfo,
    Spec,
    SpecGroup,
)
from models.saliency.spec.fields import (
    LOCAL,
    DatasetSamples,
    ImageRef,
    MapBaseline,
    OtherImage,
    Plain,
    draws,
    form,
    labels,
)
from models.saliency.spec.image_range import ImageRange, Images, RangeImages
from models.saliency.spec.masks import Occlusion, OcclusionRaw
from models.saliency.spec.methods import (
    NO_BASELINE,
    REGIONAL,
    Given,
    Method,
    check_window,
    rows_of,
    uses_baseline,
)
from models.saliency.spec.net import (
    PRETRAINED_CLASSES,
    Model,
    Pretrained,
    known_channels,
    known_size,
    need_of,
)

PATH_POINTS = 11  # b_t = (1 - t) b + t x at t = 0, 0.1, ..., 1
PROBE_ROWS = 4  # one row alone, then a batch of three

ClassIndex = Annotated[Int, Field(ge=0, lt=10**6)]
Target = Annotated[
    Annotated[ClassIndex, Tag("number")]
    | Annotated[list[ClassIndex], Field(min_length=1, max_length=64), Tag("list")]
    | Annotated[
        str, Field(pattern=r"^(argmax|label|topk:([1-9]|[1-5][0-9]|6[0-4]))$"), Tag("word")
    ],
    Discriminator(
        form,
        custom_error_type="target_form",
        custom_error_message='give a class index, a list of them, "argmax", "label" or '
        '"topk:N" with N from 1 to 64',
    ),
]


Batch = Annotated[
    Annotated[Int, Field(ge=1, le=65536), Tag("number")] | Annotated[Literal["auto"], Tag("word")],
    Discriminator(
        form,
        custom_error_type="batch_form",
        custom_error_message='give a number of rows from 1 to 65536, or "auto"',
    ),
]


VIEW_FILES = (
    ArtifactInfo("images/*.png", "image", "An image as the net sees it"),
    ArtifactInfo("view.json", "view", "What the page's viewer of maps shows"),
)


class Overlay(SpecGroup):
    """Colours and opacity of maps drawn over the image."""

    colormap: Literal["RdBu_r", "PuOr_r", "coolwarm"] = Field(
        default="RdBu_r", description="Diverging colours, the middle one at zero"
    )
    alpha: float = Field(default=0.65, ge=0, le=1, description="Opacity of the map")


class Cell(NamedTuple):
    """A method with a baseline, and their labels: one map per image, class and seed."""

    method: Method | Given
    method_label: str
    baseline: MapBaseline
    baseline_label: str


class Explanation(Spec):
    """Fields that all kinds share: net, images and classes, methods and baselines."""

    model: Model = Field(description="The net to explain")
    images: Images = Field(
        default=[ImageRef(dataset="photos", index=0)],
        description="Images to explain, a list or a range of one dataset; each is brought to the "
        "size of the net's input",
    )
    target: Target = Field(
        default="argmax",
        description='Class index, list of indices, "argmax" or "topk:N" of the unperturbed image, '
        'or "label", the class that its dataset tells; further classes cost no further passes',
    )
    score: Literal["prob", "sigmoid", "logit", "logprob"] = Field(
        default="prob",
        description="Score of a class: prob: its probability by a softmax, for labels by a "
        "sigmoid, or the output as it is of a net that ends in one; sigmoid: probability of a "
        "label by itself; logit: the output as it is; logprob: log of prob",
    )
    output_type: Literal["auto", "classes", "labels", "probabilities", "regression"] = Field(
        default="auto",
        description="What the net's outputs are. auto: labels if it ends in a sigmoid or the score "
        "is sigmoid, a regression if there is one output, else classes; classes: one of them "
        "holds; labels: each holds by itself, so that prob is a sigmoid; probabilities: of "
        "classes, already normalised; regression: numbers without probabilities",
    )
    methods: list[Method] = Field(
        default=[Occlusion(id="occlusion")],
        min_length=1,
        max_length=32,
        description="Methods that compute maps",
    )
    baselines: list[MapBaseline] = Field(
        default=[Plain(id="zero")],
        min_length=1,
        max_length=32,
        description="Values that replace removed pixels; each method that uses one runs with each",
    )
    engine: Literal["auto", "plain"] = Field(
        default="auto",
        description="auto: a fused plan of the net and recomputation of changed boxes only, if "
        "the net can be traced; plain: the net as it is",
    )
    batch: Batch = Field(default="auto", description="Rows per forward pass, 1 to 65536, or auto")
    precision: Literal["fp32", "tf32", "bf16"] = Field(
        default="fp32",
        description="Number format of forward passes; tf32 only on a GPU; with tf32 and bf16 the "
        "report gives the measured difference. Gradients are always those of the float32 net",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Explanation":
        named = [] if isinstance(self.images, ImageRange) else [each.key for each in self.images]
        if len(set(named)) < len(named):
            raise ValueError("images names the same image twice; give each once")
        self._check_local()
        if (size := known_size(self.model)) is not None:
            for index, method in enumerate(self.methods):
                check_window(method, f"methods.{index}", *size)
        return self

    @property
    def each_image(self) -> Sequence[ImageRef]:
        """The images in their order, whether the spec lists them or gives a range."""
        return RangeImages(self.images) if isinstance(self.images, ImageRange) else self.images

    def _check_local(self) -> None:
        local = [part.id for part in self.baselines if isinstance(part, LOCAL)]
        for index, method in enumerate(self.methods):
            if local and uses_baseline(method) and not isinstance(method, REGIONAL):
                raise ValueError(
                    f"baselines: {local[0]} fills removed regions of pixels, and methods.{index}, "
                    f"{method.id}, has none; use it with occlusion, occlusion_raw, "
                    "feature_ablation, lime, kernel_shap, shapley_exact or partition_shap, in "
                    "a separate job"
                )

    def cells(self) -> Iterator[Cell]:
        """Every method with every baseline, methods outermost; once if it uses no baseline."""
        for method, method_label in zip(self.methods, labels(self.methods), strict=True):
            if not uses_baseline(method):
                yield Cell(method, method_label, Plain(id="zero"), NO_BASELINE)
                continue
            for baseline, label in zip(self.baselines, labels(self.baselines), strict=True):
                yield Cell(method, method_label, baseline, label)

    def classes(self) -> int:
        """Number of classes to explain."""
        if isinstance(self.target, str):
            return int(self.target.partition(":")[2] or 1)
        return 1 if isinstance(self.target, int) else len(set(self.target))

    def every_baseline(self) -> Iterator[tuple[str, MapBaseline]]:
        """The baselines of maps and graders, with the field of each."""
        yield from ((f"baselines.{index}", part) for index, part in enumerate(self.baselines))

    def other_images(self) -> Iterator[tuple[str, ImageRef]]:
        """Images that serve as baselines, with the field that names them."""
        for field, part in self.every_baseline():
            if isinstance(part, OtherImage):
                yield f"{field}.image", part.image

    def sampled_sets(self) -> Iterator[tuple[str, DatasetSamples]]:
        """Baselines that are drawn from a dataset, with their field."""
        for field, part in self.every_baseline():
            if isinstance(part, DatasetSamples):
                yield field, part

    def needs(self) -> Iterator[Need]:
        """The net, and sets that hold the images and those that serve as baselines."""
        yield from super().needs()
        if (need := need_of(self.model, "/model")) is not None:
            yield need
        channels = known_channels(self.model)
        yield from self._needs_of_images(channels)
        for field, part in (*self.other_images(), *self.sampled_sets()):
            yield part.need("/" + field.replace(".", "/"), channels)

    def _needs_of_images(self, channels: int | None) -> Iterator[DatasetNeed]:
        if isinstance(self.images, ImageRange):
            needs = [self.images.need("/images", channels)]
        else:
            listed = enumerate(self.images)
            needs = [image.need(f"/images/{index}", channels) for index, image in listed]
        for need in needs:
            forms: dict[Form, tuple[Bound, ...]] = {}
            forms["labelled images"] = need.forms["labelled images"]
            yield need._replace(forms=forms) if self.target == "label" else need

    def check_target(self) -> None:
        """Refuse classes that the pretrained net does not have.

        Raises:
            SpecError: with the range.
        """
        if isinstance(self.target, str) or not isinstance(self.model, Pretrained):
            return
        highest = self.target if isinstance(self.target, int) else max(self.target)
        if highest >= PRETRAINED_CLASSES:
            raise SpecError(
                f"target: class {highest}; this net's classes are 0 to {PRETRAINED_CLASSES - 1}",
                pointer="/target",
            )

    def rows(self, height: int, width: int) -> int:
        """Rows through the net for images of this size, with probes and baseline impact."""
        of_maps = sum(
            rows_of(cell.method, height, width, self.classes()) * draws(cell.baseline)
            for cell in self.cells()
        )
        of_impact = sum(PATH_POINTS * draws(baseline) for baseline in self.baselines)
        return PROBE_ROWS + len(self.each_image) * (1 + of_impact + of_maps)

    def input_size(self, counts: Mapping[str, Mapping[str, Any]]) -> tuple[int, int] | None:
        """Height and width of the net's input; for a net of a job those of the images."""
        if not isinstance(self.model, ArtifactRef):
            return known_size(self.model)
        size = counts.get(self.each_image[0].dataset, {})
        return (size["height"], size["width"]) if {"height", "width"} <= size.keys() else None

    def maps(self) -> int:
        """Number of maps per class."""
        return len(self.each_image) * len(list(self.cells()))

    def estimate(self, counts: Mapping[str, Mapping[str, Any]]) -> Estimate:
        """Rows through the net, and pixels in them.

        The input of a trained net is assumed to have the size of the images. What a pixel costs
        depends on the net: those of jobs are counted apart from the one that comes with a package.

        Raises:
            SpecError: if the pretrained net does not have a target.
        """
        self.check_target()
        size = self.input_size(counts)
        if size is None:
            return Estimate()
        rows = self.rows(*size)
        details: dict[str, float | int | str | None] = {"rows": rows, "maps_per_class": self.maps()}
        pretrained = isinstance(self.model, Pretrained)
        net = self.model.pretrained if pretrained else "a trained net"
        work = {"work": rows * math.prod(size), "work_unit": f"pixels through {net}"}
        return Estimate(total_steps=rows, details=details, **work)


class SaliencyMap(Explanation):
    """Maps of which parts of an image a trained net's score depends on, by perturbing the image."""

    entry: ClassVar[str] = "models.saliency.map:map_images"
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo("score", "score", None, "Score of the target class on the image"),
        MetricInfo("baseline_score", "score", None, "Score of the target class on the baseline"),
        MetricInfo("neutrality", "1", "max", "1 - largest class probability of the baseline"),
        MetricInfo("map_min", "score", None, "Smallest value of the map"),
        MetricInfo("map_max", "score", None, "Largest value of the map"),
        MetricInfo("maps_per_s", "1/s", "max", "Of a range of images: maps computed and written"),
    )
    artifacts: ClassVar[tuple[ArtifactInfo, ...]] = (
        ArtifactInfo("saliency/*/*.npy", "saliency_map", "One map, float32, a value a pixel"),
        ArtifactInfo("saliency/*/*.png", "image", "Maps of one method and class over the image"),
        *VIEW_FILES,
        ArtifactInfo("maps.npz", "table", "All maps with a JSON index under the key 'index'"),
        ArtifactInfo("maps.zarr/*", "chunk", "All maps of a range of images, chunked (Zarr 3)"),
        ArtifactInfo("images.csv", "table", "Of a range: a row for each image and class"),
        ArtifactInfo("checkpoints/step-*.safetensors", "checkpoint", "Of a range: how far it is"),
        ArtifactInfo("report.json", "report", "Scores, baseline impact, rows, warnings, versions"),
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "zeiler2014": {"methods": [{"id": "occlusion", "window": 32, "stride": 16}]},
        "rise2018": {
            "methods": [{"id": "rise", "masks": 8000, "grid": 7, "p": 0.5}],
            "baselines": [{"id": "zero"}],
        },
        "rise_quick": {
            "methods": [{"id": "rise", "masks": 1000, "estimator": "slope", "sampling": "balanced"}]
        },
    }
    example: ClassVar[Mapping[str, Any]] = {
        "kind": "saliency.map",
        "model": {"pretrained": "efficientnet_lite0"},
        "images": [{"dataset": "photos", "index": 0}],
        "methods": [
            {"id": "occlusion", "window": 32, "stride": 16},
            {"id": "rise", "masks": 400, "estimator": "slope", "sampling": "balanced"},
        ],
    }

    kind: Literal["saliency.map"] = Field(init=False)
    outputs: list[Literal["npz", "png"]] = Field(
        default=["npz", "png"],
        max_length=2,
        description="Beside the .npy maps and report.json: one archive of all maps; pictures. Of a "
        "range of images, whose maps are in maps.zarr: pictures of the first 8",
    )
    overlay: Overlay = Overlay()

    @model_validator(mode="after")
    def _of_one_shape(self) -> "SaliencyMap":
        for index, method in enumerate(self.methods):
            if isinstance(self.images, ImageRange) and isinstance(method, OcclusionRaw):
                raise ValueError(  # noqa: TRY004  # pydantic's way to refuse
                    f"methods.{index}: occlusion_raw gives a value a window, not a pixel, and the "
                    "maps of a range of images are one array; use occlusion, or list the images"
                )
        return self
