"""The images of a spec, at the size and scale of the net's input."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from models.core.errors import DataError, SpecError
from models.core.run import Run
from models.data import files, samples
from models.data.builtin import BUILTIN
from models.data.fitting import fit
from models.saliency.net.load import Subject
from models.saliency.spec.fields import ImageRef
from models.saliency.spec.map import Explanation


def choose_targets(target: Any, outputs: Float[Tensor, "classes"]) -> list[int]:
    """Indices of the classes to explain, from the outputs for the unperturbed image."""
    if isinstance(target, int):
        return [target]
    if not isinstance(target, str):
        return list(dict.fromkeys(target))
    count = int(target.partition(":")[2] or 1)
    return outputs.argsort(descending=True, stable=True)[:count].tolist()


def load_images(spec: Explanation, run: Run) -> list[UInt8[np.ndarray, "_h _w _c"]]:
    """The images of the spec as stored; each dataset is read once.

    Raises:
        SpecError: if an index is beyond the end of its set.
        DataMissingError: if a built-in set is not available to the worker.
    """
    wanted: dict[tuple[str, str], list[int]] = {}
    for position, ref in enumerate(spec.images):
        wanted.setdefault((ref.dataset, ref.split), []).append(position)
    images: dict[str, np.ndarray] = {}
    for positions in wanted.values():
        refs = {f"images.{position}": spec.images[position] for position in positions}
        images |= _read(refs, run)
    return [images[f"images.{position}"] for position in range(len(spec.images))]


def load_others(spec: Explanation, run: Run, subject: Subject) -> None:
    """Load the images that serve as baselines into ``subject.space.others``.

    Raises:
        SpecError: if an index is beyond the end of its set.
        DataError: if the channels of one do not fit.
    """
    for field, ref in spec.other_images():
        if ref.key not in subject.space.others:
            (image,) = _read({field: ref}, run).values()
            subject.space.others[ref.key] = prepare(image, subject, field)


def _read(refs: dict[str, ImageRef], run: Run) -> dict[str, np.ndarray]:
    """Images of one split of one dataset, by field of the spec."""
    first = next(iter(refs.values()))
    if first.dataset == "photos":
        _within(refs, len(samples.PHOTOS))
        return {field: samples.photo(ref.index) for field, ref in refs.items()}
    if first.dataset in BUILTIN:
        arrays = samples.images(first.dataset)
        _check_part(refs, first, ("train", "test"))
        part = getattr(arrays, first.split).images
        _within(refs, len(part))
        return {field: part[ref.index] for field, ref in refs.items()}
    return _read_uploaded(refs, first, run)


def _read_uploaded(refs: dict[str, ImageRef], first: ImageRef, run: Run) -> dict[str, np.ndarray]:
    """The same of an uploaded set; only these images are decoded."""
    with files.open_images(run.input(first), first.read) as opened:
        if opened.labelled:
            _check_part(refs, first, opened.parts)
        pictures = opened.part(first.split)
        _within(refs, pictures.count)
        return dict(zip(refs, pictures.picked([ref.index for ref in refs.values()]), strict=True))


def _check_part(refs: dict[str, ImageRef], first: ImageRef, parts: Collection[str]) -> None:
    if first.split not in parts:
        raise SpecError(
            f"{next(iter(refs))}.split is {first.split!r}; {first.dataset} has the parts "
            f"{', '.join(parts)}"
        )


def _within(refs: dict[str, ImageRef], count: int) -> None:
    for field, ref in refs.items():
        if ref.index >= count:
            raise SpecError(
                f"{field}.index is {ref.index}; {ref.dataset} has images 0 to {count - 1} there"
            )


def read_map(path: Path, size: tuple[int, int], field: str) -> Float[Tensor, "h w"]:
    """A saliency map of another job, from a .npy file, as float64; nothing is unpickled.

    Raises:
        DataError: if it is not an array of finite numbers of the size of the net's input.
    """
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{field}: no array of numpy (.npy): {error}") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        raise DataError(f"{field}: give one array of real numbers as .npy")
    if values.shape != size:
        raise DataError(f"{field} has shape {values.shape}; the net's input is {size}, give that")
    if not np.isfinite(values).all():
        raise DataError(f"{field} holds NaN or infinity; replace them by numbers")
    return torch.from_numpy(values.astype(np.float64))


def prepare(
    image: UInt8[np.ndarray, "h w c"], subject: Subject, field: str
) -> Float[Tensor, "d i j"]:
    """Pixels in [0, 1] at the size and with the channels of the net's input, float32.

    An image of another size is cropped to the aspect ratio of the input, resized (bicubic,
    antialiased) and cropped centrally. The channel of a grey image is repeated for a colour net.

    Args:
        image: as stored.
        subject: the net to explain.
        field: names the image in errors.

    Raises:
        DataError: if the channels do not fit.
    """
    if image.shape[2] != subject.channels:
        if image.shape[2] != 1:
            raise DataError(
                f"{field} has {image.shape[2]} channels, the net's input {subject.channels}"
            )
        image = np.repeat(image, subject.channels, axis=2)
    if image.shape[:2] != subject.size:
        image = fit(image, subject.size, subject.margin)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, 2, 0))).float() / 255
