"""Classifies images: classes and probabilities of each, and how good that is where it is known."""

from collections import Counter
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from models.classify import report
from models.classify.classifier import Classifier, load, prepared
from models.classify.predicted import Predicted
from models.classify.source import ImageSource, open_source
from models.classify.spec import ClassifyPredict
from models.core import ranks
from models.core.errors import DataError, SpecError
from models.core.run import Run
from models.data import images


def predict(spec: ClassifyPredict, run: Run) -> None:
    """Classify the images of a spec; leave tables, report and picture.

    Raises:
        SpecError: if the set has no such part, or more than one device is used.
        DataError: if net or images cannot be used.
        DataMissingError: if a package is not installed.
        StoppedError: if a stop was requested.
    """
    if ranks.world_size() > 1:
        raise SpecError("classify.predict runs on one device", hint="ask for one GPU, or none")
    run.check_stop()
    classifier = load(spec.model, run)
    with open_source(spec, run) as source:
        truth = matched(source, classifier.about.classes, run)
        predicted = _classify(spec, classifier, source, truth, run)
    report.write(spec, classifier, predicted, run)


def matched(source: ImageSource, classes: list[str], run: Run) -> Int64[Tensor, "n"]:
    """Labels of the images as those of the net, by the names of the classes; -1 if it has none.

    The numbers of two sets mean nothing to each other: folders may be in another order.
    """
    if not source.classes:
        return torch.full((source.count,), -1)
    counts = Counter(classes)  # a name that two classes share tells neither
    numbers = {name: number for number, name in enumerate(classes) if counts[name] == 1}
    known = torch.tensor([numbers.get(name, -1) for name in source.classes])
    strange = [name for name in source.classes if name not in numbers]
    if strange:
        shown = ", ".join(strange[:5]) + (", ..." if len(strange) > 5 else "")
        run.warn(
            "classes_unknown",
            f"{len(strange)} of {len(source.classes)} classes of the set are none of the net's"
            f" ({shown}): their images are classified, and left out of the accuracy",
        )
    return known[torch.from_numpy(np.asarray(source.labels, dtype=np.int64))]


def _classify(
    spec: ClassifyPredict, classifier: Classifier, source: ImageSource, truth: Tensor, run: Run
) -> Predicted:
    names, logs, shown = [], [], []
    pictures = iter(source.pictures)
    while batch := list(islice(pictures, spec.batch_size)):
        run.check_stop()
        pixels = np.stack(
            [prepared(image, name, classifier, spec.other_sizes) for name, image in batch]
        )
        logs.append(classify(classifier, pixels, run))
        names += [name for name, _ in batch]
        shown += list(pixels[: report.SHOWN - len(shown)])
        _log(torch.cat(logs), truth, source.count, run)
    if not names:
        raise DataError(f"{spec.data.dataset} has no images in its part {spec.split}")
    return Predicted(names, torch.cat(logs), truth, np.stack(shown))


def classify(
    classifier: Classifier, pixels: UInt8[np.ndarray, "b h w c"], run: Run
) -> Float[Tensor, "b classes"]:
    """Log-probabilities of the classes for pictures of the net's own size, on the CPU.

    Raises:
        DataError: if they are not finite.
    """
    about = classifier.about
    x = images.normalise(torch.from_numpy(pixels).to(run.device), about.mean, about.std)
    logs = classifier.log_probabilities(x.contiguous()).cpu()
    if not logs.isfinite().all():
        raise DataError("the net gives NaN or infinity: its training diverged, name another")
    return logs


def _log(log_probs: Tensor, truth: Tensor, count: int, run: Run) -> None:
    done = len(log_probs)
    top, named = log_probs.max(1)
    known = truth[:done] >= 0
    figures = {"confidence": top.exp().mean().item()}
    if known.any():
        figures["accuracy"] = (named == truth[:done])[known].double().mean().item()
    run.log(done, **figures)
    run.progress(done, count, phase="predict", unit="image")
