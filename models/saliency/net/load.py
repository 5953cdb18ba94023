"""Loads the net of a spec from any source, with the preprocessing of its input."""

from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from models.core.errors import DataError, SpecError
from models.core.run import Run
from models.data.headers import safetensors_shapes
from models.data.programs import holds_program
from models.nets import efficientnet_lite
from models.nets.build import build_net
from models.nets.exported import load_program
from models.nets.files import load_net
from models.nets.library import named
from models.nets.library_spec import LibraryNet
from models.saliency.net.outputs import check_score, meaning_of
from models.saliency.net.space import Space
from models.saliency.spec.map import Explanation
from models.saliency.spec.methods import check_window
from models.saliency.spec.net import (
    IMAGENET_MARGIN,
    PRETRAINED_SIZE,
    Input,
    NamedNet,
    Pretrained,
    UploadedNet,
)

HEAD = ("classifier.weight", "fc.weight", "head.weight", "head.fc.weight")


class Subject(NamedTuple):
    """The net to explain and the preprocessing of its input.

    Attributes:
        net: in evaluation mode, on the run's device.
        classes: their names.
        space: its input space, with the normalisation of pixels.
        size: height and width of the input, in pixels.
        channels: of the input.
        margin: ratio of the resized image's side to that of its central crop.
    """

    net: nn.Module
    classes: list[str]
    space: Space
    size: tuple[int, int]
    channels: int
    margin: float


def load_subject(spec: Explanation, run: Run) -> Subject:
    """The net of the spec on the run's device.

    Raises:
        SpecError: if a window does not fit its input, a target is not one of its classes, or a
            library is not installed.
        DataError: if the file does not hold a net, or weights do not fit the architecture.
    """
    model = spec.model
    if isinstance(model, Pretrained):
        subject = pretrained(run.device)
    elif isinstance(model, NamedNet):
        net = named(model, None, pretrained=model.weights == "pretrained")
        subject = _described(net, model.input, 3, None, run.device)
    elif isinstance(model, UploadedNet):
        subject = uploaded(model, run.input(model), run.device)
    else:
        subject = _of_job(run.input(model), run.device)
    check(spec, subject)
    return subject


def pretrained(device: str) -> Subject:
    """EfficientNet-Lite0 with its weights for ImageNet."""
    net, classes = efficientnet_lite.pretrained()
    mean, std = [efficientnet_lite.MEAN] * 3, [efficientnet_lite.STD] * 3
    side = efficientnet_lite.IMAGE_SIZE
    # This mean is mid-gray, not that of the training data.
    space = Space(mean, std, recorded=False)
    return Subject(net.to(device), classes, space, (side, side), 3, IMAGENET_MARGIN)


def _of_job(path: Path, device: str) -> Subject:
    loaded = load_net(path, device)
    space = Space(list(loaded.mean), list(loaded.std))
    return Subject(loaded.net, list(loaded.classes), space, loaded.size, loaded.channels, 1.0)


def uploaded(model: UploadedNet, path: Path, device: str) -> Subject:
    """A user's own net.

    Raises:
        DataError: if the file is refused, damaged, or does not fit the architecture.
    """
    if not holds_program(path):
        net, channels = _from_weights(model, path)
        return _described(net, model.input, channels, model.classes, device)
    if model.architecture is not None:
        raise SpecError(
            "model.architecture: the file is a torch.export archive, which holds its own",
            hint="leave architecture out",
        )
    net = load_program(path, device)
    size = _exported_size(model.input.size, *net.size[1:])
    return _described(net, model.input, net.size[0] or 3, model.classes, device, size)


def _exported_size(
    given: list[int] | None, height: int | None, width: int | None
) -> tuple[int, int]:
    """Input size of a program, from the spec if the program leaves it open.

    Raises:
        SpecError: if neither gives the size, or they differ.
    """
    if given is None:
        if height is None or width is None:
            raise SpecError("model.input.size: the program leaves it open; give [height, width]")
        return height, width
    if height not in (None, given[0]) or width not in (None, given[1]):
        raise SpecError(
            f"model.input.size is {given[0]} x {given[1]}; the program was exported for "
            f"{height} x {width}",
            hint="leave size out",
        )
    return given[0], given[1]


def _from_weights(model: UploadedNet, path: Path) -> tuple[nn.Module, int]:
    """The named architecture with weights from a safetensors file, and its input channels."""
    shapes = safetensors_shapes(path)
    if model.architecture is None:
        raise SpecError(
            "model.architecture: a safetensors file holds weights alone",
            hint='name the net, as {"library": "timm", "name": "resnet18"} or {"name": "resnet18"}',
        )
    count = len(model.classes) if model.classes else _outputs(shapes)
    if isinstance(model.architecture, LibraryNet):
        net = named(model.architecture, count, pretrained=False)
        channels = 3
    else:
        channels = shapes.get("stem.weight", [0, 3])[1]
        net = build_net(model.architecture.model_dump(), count or 1000, channels)
    try:
        net.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError) as error:
        raise DataError(
            f"the weights do not fit the architecture: {str(error)[:500]}",
            hint="check the name of the architecture and the number of classes",
        ) from error
    return net, channels


def _outputs(shapes: dict[str, list[int]]) -> int | None:
    """Number of classes, from the last layer under its usual names."""
    return next((shapes[name][0] for name in HEAD if name in shapes), None)


def _described(
    net: nn.Module,
    given: Input,
    channels: int,
    classes: list[str] | None,
    device: str,
    size: tuple[int, ...] = (PRETRAINED_SIZE, PRETRAINED_SIZE),
) -> Subject:
    """The net with its preprocessing; classes without names are counted on images of zeros.

    Args:
        net: as loaded.
        given: the input fields of the spec.
        channels: of the input.
        classes: their names, None if unknown.
        device: of the run.
        size: of the input if the spec leaves it open.

    Raises:
        SpecError: if the net does not take such images or gives no row of numbers.
    """
    height, width = tuple(given.size or size)
    if len(given.mean) != channels:
        raise SpecError(
            f"model.input.mean has {len(given.mean)} numbers, the net's input {channels} channels"
        )
    net = net.to(device).eval()
    count = _count(net, (channels, height, width), device)
    if classes is not None and len(classes) != count:
        raise SpecError(f"model.classes has {len(classes)} names, the net gives {count} numbers")
    # The mean counts as that of the training data only if the spec gives it.
    space = Space(given.mean, given.std, recorded="mean" in given.model_fields_set)
    names = classes or [str(index) for index in range(count)]
    return Subject(net, names, space, (height, width), channels, given.margin)


def _count(net: nn.Module, shape: tuple[int, int, int], device: str) -> int:
    weights = (v for v in (*net.parameters(), *net.buffers()) if v.is_floating_point())
    dtype = next((v.dtype for v in weights), torch.float32)
    try:
        with torch.no_grad():
            outputs = net(torch.zeros(2, *shape, dtype=dtype, device=device))
    except Exception as error:  # whatever a user's net raises
        raise SpecError(
            f"model: the net does not take two images of shape {shape}: {error}"[:600],
            hint="give input.size; export with dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), so "
            "that the net takes batches of any size",
        ) from error
    if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2 or len(outputs) != 2:
        _refuse_outputs(outputs)
    return outputs.shape[1]


def _refuse_outputs(outputs: Any) -> NoReturn:
    """Say what a net without one row of numbers an image could be, and how to explain it."""
    one = isinstance(outputs, torch.Tensor)
    described = f"an array {tuple(outputs.shape)}" if one else f"a {type(outputs).__name__}"
    if one and outputs.ndim <= 2:
        hint = "export with dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)"
    else:
        hint = (
            "wrap the net so that it gives the number you ask about, for example the mean score of "
            "a class over a box or a mask: forward(x): return net(x)[:, :, top:bottom, "
            "left:right].mean((2, 3)); then export it again"
        )
    raise SpecError(
        f"model: for two images the net gives {described}; saliency explains a row of numbers for "
        "each image. Detection and segmentation as such are out of scope",
        hint=hint,
    )


def check(spec: Explanation, subject: Subject) -> None:
    """Refuse windows, targets and scores that do not fit the net.

    Raises:
        SpecError: naming the field and what is allowed.
    """
    try:
        for index, method in enumerate(spec.methods):
            check_window(method, f"methods.{index}", *subject.size)
    except ValueError as error:
        raise SpecError(str(error)) from error
    count = len(subject.classes)
    meaning = meaning_of(subject.net, spec.output_type, spec.score, count)
    check_score(meaning, spec.score, count)
    for index, part in enumerate(getattr(spec, "graders", ())):
        if part.id == "random_logit" and count == 1:
            raise SpecError(
                f"graders.{index}: random_logit compares with the map of another class, and this "
                "net has one output",
                hint="leave it out, or use efficient_mprt",
            )
    given = [spec.target] if isinstance(spec.target, int) else spec.target
    if isinstance(given, str):
        wanted = int(given.partition(":")[2] or 1)
        if wanted > count:
            raise SpecError(f"target: {given!r} of a net of {count} classes; use topk:{count}")
    elif max(given) >= count:
        raise SpecError(f"target: class {max(given)}; this net's classes are 0 to {count - 1}")
