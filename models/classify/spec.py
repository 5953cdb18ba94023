"""Spec of classifying images by a trained net. Torch-free."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from models.core.needs import WEIGHTS, ArtifactNeed, Bound, DatasetNeed, Need
from models.core.spec import (
    VECTOR,
    ArtifactInfo,
    ArtifactOrVersion,
    ArtifactRef,
    DatasetRef,
    Estimate,
    Int,
    MetricInfo,
    Spec,
)
from models.nets.spec import Pretrained
from models.supervised.spec import CLASSIFIER_FILES, CLASSIFIERS

FILES = (*CLASSIFIER_FILES, "ensemble.*")


class ClassifyPredict(Spec):
    """Classify images by a trained net or ensemble; score it where their classes are known."""

    entry: ClassVar[str] = "models.classify.predict:predict"
    serving: ClassVar[str] = "models.classify.serve:open_classifier"
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo("accuracy", "share", "max", "images so far whose class is named"),
        MetricInfo("confidence", "share", None, "mean probability of the named class so far"),
    )
    artifacts: ClassVar[tuple[ArtifactInfo, ...]] = (
        ArtifactInfo("predictions.csv", "table", "a row an image: likeliest classes, probability"),
        ArtifactInfo("probabilities.npz", "table", "of each image and class; the classes' names"),
        ArtifactInfo("report.json", "report", "figures, preparation of the images, the net's card"),
        ArtifactInfo("predictions.png", "image", "the first images with what they are taken for"),
        VECTOR,
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "photos": {
            "kind": "classify.predict",
            "model": {"pretrained": "efficientnet_lite0"},
            "data": {"dataset": "photos"},
        },
    }
    example: ClassVar[Mapping[str, Any]] = presets["photos"]

    kind: Literal["classify.predict"] = Field(init=False)
    model: ArtifactOrVersion | Pretrained = Field(
        description="Weights, a checkpoint, a ticket or the ensemble of a training of a classifier"
        " (the mean probability of its members), or a net that comes with a package"
    )
    data: DatasetRef = Field(description="Labelled images, or photographs without labels")
    split: Literal["test", "train", "validation"] = Field(
        default="test", description="Part of a labelled set; sets of photographs have only one"
    )
    other_sizes: Literal["resize", "refuse"] = Field(
        default="resize",
        description="Images of another size than the net was trained on are resized as its own"
        " were, or refused",
    )
    top: Int = Field(default=5, ge=1, le=100, description="Likeliest classes to name, at most")
    batch_size: Int = Field(default=128, ge=1, le=65_536, description="Images at once")

    def needs(self) -> Iterator[Need]:
        """A trained classifier, and images."""
        yield from super().needs()
        if isinstance(self.model, ArtifactRef):
            yield ArtifactNeed("/model", WEIGHTS, CLASSIFIERS, FILES)
        part = Bound(self.split, 1, field="/split", remedy="name another part")
        yield DatasetNeed("/data", {"labelled images": (part,), "photographs": ()})

    def estimate(self, counts: Mapping[str, Mapping[str, Any]]) -> Estimate:
        """One step an image."""
        known = counts.get(self.data.dataset, {})
        images = known.get(self.split, known.get("images"))
        if not images:
            return Estimate()
        return Estimate(total_steps=images, work=images, work_unit="images")
