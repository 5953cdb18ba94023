"""The net that a job explains: from a job, from a package, or the user's own. Torch-free."""

import math
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from models.core.needs import WEIGHTS, ArtifactNeed, Bound, DatasetNeed, Need
from models.core.spec import ArtifactOrVersion, ArtifactRef, DatasetRef, Int, SpecGroup
from models.nets.library_spec import LibraryNet, library_tag
from models.nets.spec import IMAGENET_MARGIN, Pretrained, ResidualFamily
from models.supervised.spec import CLASSIFIER_FILES, CLASSIFIERS

PRETRAINED_SIZE, PRETRAINED_CLASSES = 224, 1000
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

Channels = Annotated[list[float], Field(min_length=1, max_length=16)]
Sides = Annotated[list[Annotated[Int, Field(ge=8, le=4096)]], Field(min_length=2, max_length=2)]


class Input(SpecGroup):
    """Preprocessing of pixels in [0, 1]: resized, cropped, (pixel - mean) / std."""

    size: Sides | None = Field(
        default=None,
        description="[height, width] in pixels; null: as exported, 224 x 224 for named nets",
    )
    mean: Channels = Field(default=IMAGENET_MEAN, description="Of each channel; ImageNet's")
    std: Channels = Field(default=IMAGENET_STD, description="Of each channel; ImageNet's")
    margin: float = Field(
        default=IMAGENET_MARGIN,
        ge=1,
        le=4,
        description="Ratio of the resized image's side to that of its central crop",
    )

    @model_validator(mode="after")
    def _usable(self) -> "Input":
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean has {len(self.mean)} numbers, std {len(self.std)}; give one a channel"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std} must be positive")
        return self


class NamedNet(LibraryNet):
    """A net of timm or torchvision by name."""

    weights: Literal["pretrained", "random"] = Field(
        default="pretrained",
        description="pretrained: the library's own, as safetensors (timm only); random: to try out "
        "a spec",
    )
    input: Input = Input()

    @model_validator(mode="after")
    def _no_pickle(self) -> "NamedNet":
        if self.library == "torchvision" and self.weights == "pretrained":
            raise ValueError(
                "torchvision publishes its weights as pickle files, which are refused; save them "
                "as safetensors, upload the file and name it with "
                'architecture {"library": "torchvision", "name": ...}, or use timm'
            )
        return self


Architecture = Annotated[
    Annotated[LibraryNet, Tag("library")] | Annotated[ResidualFamily, Tag("own")],
    Discriminator(library_tag),
]


class UploadedNet(DatasetRef):
    """The user's own net: a ``torch.export`` archive, or safetensors with an architecture."""

    architecture: Architecture | None = Field(
        default=None,
        description="Architecture of the weights in a safetensors file; null for a torch.export "
        "archive",
    )
    input: Input = Input()
    classes: list[Annotated[str, Field(min_length=1, max_length=100)]] | None = Field(
        default=None,
        min_length=1,
        max_length=100_000,
        description="Class names in the order of the net's outputs",
    )


def _model_tag(value: Any) -> str | None:
    if isinstance(value, str):
        return "artifact" if value.startswith("model:") else None
    keys = value if isinstance(value, dict) else getattr(type(value), "model_fields", {})
    names = {"pretrained": "pretrained", "dataset": "uploaded", "library": "named",
             "job": "artifact", "artifact": "artifact"}  # fmt: skip
    return next((names[key] for key in names if key in keys), None)


Model = Annotated[
    Annotated[ArtifactOrVersion, Tag("artifact")]
    | Annotated[Pretrained, Tag("pretrained")]
    | Annotated[NamedNet, Tag("named")]
    | Annotated[UploadedNet, Tag("uploaded")],
    Discriminator(
        _model_tag,
        custom_error_type="model_form",
        custom_error_message='give {"job": id, "artifact": name} of a checkpoint or weights, '
        '"model:NAME@ALIAS", {"pretrained": "efficientnet_lite0"}, {"library": "timm", "name": '
        '...}, or {"dataset": name} of an uploaded torch.export archive or safetensors file',
    ),
]


def known_size(model: Any) -> tuple[int, int] | None:
    """Height and width of the net's input; None if the spec does not determine them."""
    if isinstance(model, Pretrained):
        return PRETRAINED_SIZE, PRETRAINED_SIZE
    if isinstance(model, NamedNet | UploadedNet):
        if model.input.size is not None:
            return model.input.size[0], model.input.size[1]
        named = isinstance(model, NamedNet) or isinstance(model.architecture, LibraryNet)
        return (PRETRAINED_SIZE, PRETRAINED_SIZE) if named else None
    return None


def known_channels(model: Any) -> int | None:
    """Channels of the net's input; None if the spec does not determine them."""
    if isinstance(model, ArtifactRef):
        return None
    return 3 if isinstance(model, Pretrained) else len(model.input.mean)


def need_of(model: Any, pointer: str) -> Need | None:
    """What the dataset or artifact must be that holds the net; None if a package does.

    Args:
        model: the field of the spec.
        pointer: of it within the spec.
    """
    if isinstance(model, ArtifactRef):
        return ArtifactNeed(pointer, WEIGHTS, CLASSIFIERS, CLASSIFIER_FILES)
    if not isinstance(model, UploadedNet):
        return None
    named = model.architecture is not None
    remedy = (
        "leave architecture out: a torch.export archive holds its own"
        if named
        else 'name the architecture of these weights, as {"library": "timm", "name": "resnet18"}'
    )
    field = f"{pointer}/architecture"
    most = 0 if named else math.inf
    bound = Bound("operations", 0, most, field=field, remedy=remedy, required=not named)
    still = "call net.eval() before torch.export.export"
    rests = Bound("training_operations", 0, 0, remedy=still)
    return DatasetNeed(pointer, {"a net": (bound, rests)})
