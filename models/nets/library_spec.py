"""Nets of other libraries by name, and what a training of one starts from. Torch-free."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from models.core.spec import ArtifactOrVersion, DatasetRef
from models.nets.spec import Net

ParameterPattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.*?\[\]-]{1,200}$")]


class LibraryNet(Net):
    """An architecture of timm or torchvision, where that package is installed."""

    library: Literal["timm", "torchvision"]
    name: str = Field(
        pattern=r"^[a-z][a-z0-9_.]{1,100}$", description="Name in the library, such as resnet18"
    )


def _form_of_weights(value: Any) -> str | None:
    if isinstance(value, str):
        return "artifact" if value.startswith("model:") else "library"
    keys = value if isinstance(value, dict) else getattr(type(value), "model_fields", {})
    return "artifact" if "job" in keys or "artifact" in keys else "upload"


InitialWeights = Annotated[
    Annotated[Literal["pretrained"], Tag("library")]
    | Annotated[ArtifactOrVersion, Tag("artifact")]
    | Annotated[DatasetRef, Tag("upload")],
    Discriminator(_form_of_weights),
]


class ForeignNet(LibraryNet):
    """A net of timm or torchvision to train: with a classifier for the classes of the data."""

    weights: InitialWeights | None = Field(
        default=None,
        description="What the training starts from; null: random by the seed; pretrained: the"
        ' library\'s own (timm only); {"dataset": ...}: uploaded safetensors; {"job": ...,'
        ' "artifact": ...}: weights of a training of the same net. A classifier of other classes'
        " starts anew",
    )
    freeze: list[ParameterPattern] = Field(
        default=[],
        max_length=100,
        description="Names of parameters, * and ? allowed, that stay as they are: layer1.*",
    )

    @model_validator(mode="after")
    def _usable(self) -> "ForeignNet":
        if self.weights == "pretrained" and self.library == "torchvision":
            raise ValueError(
                "torchvision publishes its weights as pickle files, which are refused; save them"
                ' as safetensors, upload the file and give weights {"dataset": its name}, or use'
                " timm"
            )
        return self

    def architecture(self) -> dict[str, Any]:
        """Library and name: what a file tells of the net."""
        return self.model_dump(include={"library", "name"})


class ProgramNet(DatasetRef, Net):
    """A net that a user exported by ``torch.export``, to train on from the weights it came with."""

    name: Literal["program"] = Field(default="program", description="Of every such net")
    freeze: list[ParameterPattern] = Field(
        default=[],
        max_length=100,
        description="Names of parameters, * and ? allowed, that stay as they are, beside those"
        " that ask for no gradients in the program",
    )

    def architecture(self) -> dict[str, Any]:
        """Its name; the program, which a file tells, only the net itself knows."""
        return {"name": self.name}


GivenNet = ForeignNet | ProgramNet  # whose layers a worker alone knows


def net_tag(value: Any) -> str:
    """Discriminator of the field ``model``: of a library, exported, or one of the project's own."""
    keys = value if isinstance(value, dict) else getattr(type(value), "model_fields", {})
    return "program" if "dataset" in keys else library_tag(value)


def library_tag(value: Any) -> str:
    """Discriminator of a field that takes a net of a library or one of the project's own."""
    keys = value if isinstance(value, dict) else getattr(type(value), "model_fields", {})
    return "library" if "library" in keys else "own"
