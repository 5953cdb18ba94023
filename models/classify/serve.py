"""A classifier that stays loaded and names the classes of pictures as they come."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from models.classify.classifier import Classifier, load, prepared
from models.classify.predict import classify
from models.core.run import Run
from models.core.serving import Answerer
from models.core.spec import ArtifactRef
from models.data.decode import decode


def open_classifier(model: ArtifactRef, run: Run) -> Answerer:
    """Load the classifier of a file.

    Returns:
        A function of the files of pictures and of ``top`` (how many classes to name) and
        ``other_sizes`` as in the spec of ``classify.predict``; it answers ``predictions``, for
        each picture the likeliest classes with their probabilities.

    Raises:
        DataError: if the file holds no classifier.
    """
    classifier = load(model, run)
    for net in classifier.nets:  # a tenth faster for one picture at a time on a CPU
        net.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]
    about = classifier.about  # once through the net: what is made at first use is there then
    classify(classifier, np.zeros((1, *about.size, about.channels), np.uint8), run)

    def answer(contents: Sequence[bytes], options: Mapping[str, Any]) -> Mapping[str, Any]:
        pixels = [
            prepared(decode(content, name, None), name, classifier, options["other_sizes"])
            for name, content in ((f"image {n}", each) for n, each in enumerate(contents))
        ]
        return {"predictions": _named(classifier, np.stack(pixels), options["top"], run)}

    return answer


def _named(
    classifier: Classifier, pixels: np.ndarray, top: int, run: Run
) -> list[list[dict[str, Any]]]:
    """The likeliest classes of each picture, the likeliest first."""
    classes = classifier.about.classes
    logs = classify(classifier, pixels, run)
    values, numbers = logs.exp().topk(min(top, len(classes)), dim=1)
    return [
        [
            {"class": classes[number], "probability": value}
            for value, number in zip(row, order, strict=True)
        ]
        for row, order in zip(values.tolist(), numbers.tolist(), strict=True)
    ]
