"""The net and the images of a spec, brought to one size and scale."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from models.core import checkpoint
from models.core.errors import DataError, SpecError
from models.core.run import Run
from models.data import files, samples
from models.data.builtin import BUILTIN
from models.nets import efficientnet_lite
from models.saliency.baselines import Space
from models.saliency.methods import check_window
from models.saliency.spec import Explanation, ImageRef, Pretrained

MARGIN = 256 / 224  # ImageNet practice: resize to 256, keep the central 224


class Subject(NamedTuple):
    """The net to explain and how images reach it.

    Attributes:
        net: in evaluation mode, on the run's device.
        classes: their names.
        space: normalisation of pixels.
        size: height and width of the input, in pixels.
        channels: of the input.
        margin: side of the resized image over the side of its central crop.
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
        SpecError: if a window does not fit its input or a target is not one of its classes.
        DataError: if the artifact is no net.
    """
    if isinstance(spec.model, Pretrained):
        subject = _pretrained(run.device)
    else:
        loaded = checkpoint.load_net(run.input(spec.model), run.device)
        height, width = loaded.size
        space = Space(list(loaded.mean), list(loaded.std))
        subject = Subject(
            loaded.net, list(loaded.classes), space, (height, width), loaded.channels, 1.0
        )
    _check(spec, subject)
    return subject


def _pretrained(device: str) -> Subject:
    net, classes = efficientnet_lite.pretrained()
    mean, std = [efficientnet_lite.MEAN] * 3, [efficientnet_lite.STD] * 3
    side = efficientnet_lite.IMAGE_SIZE
    # The mean is mid-gray, not a mean of the training data.
    space = Space(mean, std, recorded=False)
    return Subject(net.to(device), classes, space, (side, side), 3, MARGIN)


def _check(spec: Explanation, subject: Subject) -> None:
    try:
        for index, method in enumerate(spec.methods):
            check_window(method, f"methods.{index}", *subject.size)
    except ValueError as error:
        raise SpecError(str(error)) from error
    count = len(subject.classes)
    given = [spec.target] if isinstance(spec.target, int) else spec.target
    if isinstance(given, str):
        wanted = int(given.partition(":")[2] or 1)
        if wanted > count:
            raise SpecError(f"target: {given!r} of a net of {count} classes; use topk:{count}")
    elif max(given) >= count:
        raise SpecError(f"target: class {max(given)}; this net's classes are 0 to {count - 1}")


def choose_targets(target: Any, outputs: Float[Tensor, "classes"]) -> list[int]:
    """Class indices to explain, once and for all from the outputs of the unperturbed image."""
    if isinstance(target, int):
        return [target]
    if not isinstance(target, str):
        return list(dict.fromkeys(target))
    count = int(target.partition(":")[2] or 1)
    return outputs.argsort(descending=True, stable=True)[:count].tolist()


def load_images(spec: Explanation, run: Run) -> list[UInt8[np.ndarray, "_h _w _c"]]:
    """The images of the spec as stored, each dataset read once.

    Raises:
        SpecError: if an index is beyond the end of its set.
        DataMissingError: if a built-in set is not where the worker is.
    """
    wanted: dict[tuple[str, str], list[int]] = {}
    for position, ref in enumerate(spec.images):
        wanted.setdefault((ref.dataset, ref.split), []).append(position)
    found: dict[int, np.ndarray] = {}
    for positions in wanted.values():
        refs = {position: spec.images[position] for position in positions}
        found |= _read(refs, run)
    return [found[position] for position in range(len(spec.images))]


def _read(refs: dict[int, ImageRef], run: Run) -> dict[int, np.ndarray]:
    """Images of one part of one dataset, by their positions in the spec."""
    first = next(iter(refs.values()))
    if first.dataset == "photos":
        _within(refs, len(samples.PHOTOS))
        return {position: samples.photo(ref.index) for position, ref in refs.items()}
    if first.dataset in BUILTIN:
        part = getattr(samples.images(first.dataset), first.split).images
    else:
        path = run.input(first)
        if files.holds_photos(path):
            _within(refs, files.count_photos(path))
            photos = files.read_photos(path, [ref.index for ref in refs.values()])
            return dict(zip(refs, photos, strict=True))
        part = getattr(files.read_images(path), first.split).images
    _within(refs, len(part))
    return {position: part[ref.index] for position, ref in refs.items()}


def _within(refs: dict[int, ImageRef], count: int) -> None:
    for position, ref in refs.items():
        if ref.index >= count:
            raise SpecError(
                f"images.{position}.index is {ref.index}; {ref.dataset} has images "
                f"0 to {count - 1} there"
            )


def prepare(
    image: UInt8[np.ndarray, "h w c"], subject: Subject, field: str
) -> Float[Tensor, "d i j"]:
    """Pixels in [0, 1] at the size and with the channels of the net's input, float32.

    An image of another size loses its longer side's ends, is resized (bicubic, antialiased) and
    cropped centrally; a grey image serves a colour net.

    Raises:
        DataError: if the channels do not fit.
    """
    height, width = subject.size
    if image.shape[2] != subject.channels:
        if image.shape[2] != 1:
            raise DataError(
                f"{field} has {image.shape[2]} channels, the net's input {subject.channels}"
            )
        image = np.repeat(image, subject.channels, axis=2)
    if image.shape[:2] != subject.size:
        image = np.stack(
            [_fit(plane, height, width, subject.margin) for plane in np.moveaxis(image, 2, 0)],
            axis=2,
        )
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, 2, 0))).float() / 255


def _fit(plane: np.ndarray, height: int, width: int, margin: float) -> np.ndarray:
    """One channel: central part of the net's aspect ratio, resized, central crop."""
    h, w = plane.shape
    scale = min(h / height, w / width)
    part_h, part_w = round(height * scale), round(width * scale)
    part = _centre(plane, part_h, part_w)
    wide, high = round(width * margin), round(height * margin)
    resized = Image.fromarray(part).resize((wide, high), Image.Resampling.BICUBIC)
    return _centre(np.asarray(resized), height, width)


def _centre(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (plane.shape[0] - height) // 2, (plane.shape[1] - width) // 2
    return plane[top : top + height, left : left + width]
