"""Features in which samples are compared: a classifier trained here, or EfficientNet-Lite0's."""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from models.core import device
from models.core.device import generator
from models.core.run import Run
from models.lcw.nets import in_parts
from models.lcw.parts import FEATURE_DIMS
from models.lcw.setup import Data, pixels
from models.lcw.spec import LcwTrain
from models.nets import efficientnet_lite

BATCH = 128


class Features(NamedTuple):
    """How to see an image, and what to publish about it."""

    of: Callable[[UInt8[Tensor, "n h w c"]], Float[Tensor, "n f"]]
    about: dict[str, Any]


def make(spec: LcwTrain, data: Data, run: Run) -> Features:
    """The features the spec names.

    Raises:
        DataMissingError: if the weights of EfficientNet-Lite0 are not installed.
        StoppedError: if a stop was requested.
    """
    if spec.evaluation.features == "fd_clf":
        return _classifier(spec, data, run)
    return _efficientnet(run)


def _classifier(spec: LcwTrain, data: Data, run: Run) -> Features:
    """Penultimate layer of a small net trained on the labels of the training images.

    Its seed is not the run's: runs with other seeds on the same data share one scale.
    """
    seed, steps = spec.evaluation.classifier_seed, spec.evaluation.classifier_steps
    torch.manual_seed(seed)
    dim = FEATURE_DIMS["fd_clf"]
    body = _body(data.shape.channels, dim).to(run.device)
    head = nn.Linear(dim, len(data.classes)).to(run.device)
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=1e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for step in range(steps):
        rows = torch.randint(
            len(data.train), (BATCH,), generator=generator(seed, "classifier", step)
        ).to(run.device)
        optimizer.zero_grad()
        logits = head(body(pixels(data.train[rows])))
        functional.cross_entropy(logits, data.labels[rows]).backward()
        optimizer.step()
        decay.step()
        if step % 50 == 49 or step + 1 == steps:
            run.progress(step + 1, steps, phase="classifier of fd_clf")
        run.check_stop()
    net = nn.Sequential(body, head).eval()
    right = in_parts(net, pixels(data.test)).argmax(1) == data.test_labels
    return Features(
        lambda images: torch.cat([in_parts(body, pixels(part)) for part in images.split(1024)]),
        {
            "id": "fd_clf",
            "dim": dim,
            "test_accuracy": right.float().mean().item(),
            "sha256": _digest(net),
            "seed": seed,
            "steps": steps,
        },
    )


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
        found = []
        for part in images.split(64):
            run.check_stop()
            x = pixels(part).expand(-1, 3, -1, -1)
            x = functional.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
            x = (x - efficientnet_lite.MEAN) / efficientnet_lite.STD
            with torch.no_grad():
                found.append(body(x).mean((2, 3)))
        return torch.cat(found)

    return Features(
        of,
        {
            "id": "fd_effnetlite0",
            "dim": FEATURE_DIMS["fd_effnetlite0"],
            "sha256": _digest(net),
            "resize": "bilinear, antialiased, to 224; grey repeated to three channels",
        },
    )


def _digest(net: nn.Module) -> str:
    """SHA-256 of all tensors of a net, in hex."""
    total = hashlib.sha256()
    for tensor in net.state_dict().values():
        total.update(tensor.cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def versions(run: Run) -> dict[str, Any]:
    return device.describe(run.device)
