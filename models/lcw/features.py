"""Features in which samples are compared: a classifier trained here, or EfficientNet-Lite0's."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from models.core import checkpoint, device, optimizers
from models.core.device import generator
from models.core.errors import DataError
from models.core.run import Run
from models.lcw import inception
from models.lcw.fields import FEATURE_DIMS, GeneratorEvaluation
from models.lcw.nets import in_parts
from models.lcw.setup import Data, pixels
from models.lcw.spec import CLASSIFIER, LcwTrain
from models.nets import efficientnet_lite

BATCH = 128


class Features(NamedTuple):
    """How to see an image, what to publish about it, and where there is a classifier the class."""

    of: Callable[[UInt8[Tensor, "n h w c"]], Float[Tensor, "n f"]]
    about: dict[str, Any]
    classify: Callable[[UInt8[Tensor, "n h w c"]], Int64[Tensor, "n"]] | None = None


def make(spec: LcwTrain, data: Data, run: Run) -> Features:
    """The features the spec names.

    Raises:
        DataError: if the classifier or the net to use cannot be read or sees other images.
        DataMissingError: if the weights of EfficientNet-Lite0 are not installed.
        StoppedError: if a stop was requested.
    """
    if spec.evaluation.features == "fd_effnetlite0":
        return _efficientnet(run)
    if spec.evaluation.inception is not None:
        return _inception(run.input(spec.evaluation.inception), run)
    if spec.evaluation.classifier_from is not None:
        net, made = load_classifier(run.input(spec.evaluation.classifier_from), data)
    else:
        net, made = train_classifier(spec.evaluation, data, run)
    save_classifier(run.dir / CLASSIFIER, net, made)
    run.artifact(CLASSIFIER, role="weights")
    return of_classifier(net, made, data)


def train_classifier(
    spec: GeneratorEvaluation, data: Data, run: Run
) -> tuple[nn.Sequential, dict[str, Any]]:
    """A small net trained on the labels of the training images, and how it was made.

    Its seed is not the run's: runs with other seeds on the same data share one scale on a CPU; a
    GPU does not repeat the bits, so there the file has to be shared.
    """
    seed, steps = spec.classifier_seed, spec.classifier_steps
    torch.manual_seed(seed)
    net = _classifier(data.shape.channels, len(data.classes)).to(run.device)
    optimizer = optimizers.Adam(net.parameters(), lr=1e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for step in range(steps):
        draws = generator(seed, "classifier", step)
        rows = torch.randint(len(data.train), (BATCH,), generator=draws).to(run.device)
        optimizer.zero_grad()
        logits = net(pixels(data.train[rows]))
        functional.cross_entropy(logits, data.labels[rows]).backward()
        optimizer.step()
        decay.step()
        if step % 50 == 49 or step + 1 == steps:
            run.progress(step + 1, steps, phase="classifier of fd_clf")
        run.check_stop()
    return net.eval(), {"seed": seed, "steps": steps}


def save_classifier(path: Path, net: nn.Sequential, made: dict[str, Any]) -> None:
    """Write it with how it was made; :func:`load_classifier` takes it."""
    checkpoint.write(path, net.state_dict(), {"classifier": made})


def load_classifier(path: Path, data: Data) -> tuple[nn.Sequential, dict[str, Any]]:
    """The classifier of another run, on the device of the data.

    Raises:
        DataError: if the file is of something else, or of other channels or classes.
    """
    tensors, description = checkpoint.read(path)
    net = _classifier(data.shape.channels, len(data.classes))
    try:
        net.load_state_dict(tensors)
        made = dict(description["classifier"])
    except (KeyError, RuntimeError) as error:
        raise DataError(
            f"{path.name} holds no classifier of images with {data.shape.channels} channels and"
            f" {len(data.classes)} classes: {error}",
            hint=f"name the artifact {CLASSIFIER} of an lcw.train on the same data",
        ) from error
    return net.to(data.train.device).eval(), made


def of_classifier(net: nn.Sequential, made: dict[str, Any], data: Data) -> Features:
    """The penultimate layer as features."""

    def seen(layers: nn.Module, images: Tensor) -> Tensor:
        return torch.cat([in_parts(layers, pixels(part)) for part in images.split(1024)])

    right = seen(net, data.test).argmax(1) == data.test_labels
    return Features(
        lambda images: seen(net[:-1], images),
        {
            "id": "fd_clf",
            "dim": FEATURE_DIMS["fd_clf"],
            "test_accuracy": right.float().mean().item(),
            "sha256": checkpoint.digest_of(net),
            **made,
        },
        lambda images: seen(net, images).argmax(1),
    )


def _classifier(channels: int, classes: int) -> nn.Sequential:
    dim = FEATURE_DIMS["fd_clf"]
    return nn.Sequential(*_body(channels, dim), nn.Linear(dim, classes))


def _body(channels: int, dim: int) -> nn.Sequential:
    def layer(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *layer(channels, 32, 1),
        *layer(32, 64, 2),
        *layer(64, 128, 2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(512, dim),
        nn.ReLU(),
    )


def _efficientnet(run: Run) -> Features:
    """Pooled features of EfficientNet-Lite0; grey is repeated, images are resized to 224."""
    net = efficientnet_lite.pretrained().net.to(run.device)
    body = nn.Sequential(
        net._conv_stem,  # names of the published file
        net._bn0,
        nn.ReLU6(),
        *net._blocks,
        net._conv_head,
        net._bn1,
        nn.ReLU6(),
    ).eval()
    side = efficientnet_lite.IMAGE_SIZE

    def of(images: Tensor) -> Tensor:
        parts = []
        for part in images.split(64):
            run.check_stop()
            x = pixels(part).expand(-1, 3, -1, -1)
            x = functional.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
            x = (x - efficientnet_lite.MEAN) / efficientnet_lite.STD
            with torch.no_grad():
                parts.append(body(x).mean((2, 3)))
        return torch.cat(parts)

    return Features(
        of,
        {
            "id": "fd_effnetlite0",
            "dim": FEATURE_DIMS["fd_effnetlite0"],
            "sha256": checkpoint.digest_of(net),
            "resize": "bilinear, antialiased, to 224; grey repeated to three channels",
        },
    )


def _inception(path: Path, run: Run) -> Features:
    about = {
        "id": "fid_inception",
        "dim": FEATURE_DIMS["fid_inception"],
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "resize": "bilinear as in TensorFlow 1, to 299; grey repeated to three channels",
    }
    return Features(inception.features(path, run), about)


def versions(run: Run) -> dict[str, Any]:
    return device.describe(run.device)
