"""The images of a spec, at the size and scale of the net's input."""

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
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
from models.data.sets import NO_LABELS, ImagePart, Picture
from models.saliency import philox
from models.saliency.net.load import Subject
from models.saliency.spec.fields import DatasetSamples, ImageRef
from models.saliency.spec.image_range import ImageRange
from models.saliency.spec.map import Explanation

BLOCK = 64  # images decoded at once
POOL = 64  # images of a set from which baselines are drawn


def choose_targets(
    target: Any, outputs: Float[Tensor, "classes"], label: Callable[[], int]
) -> list[int]:
    """Indices of the classes to explain.

    Args:
        target: of the spec.
        outputs: of the net for the unperturbed image.
        label: gives the class that the dataset tells.
    """
    if target == "label":
        return [label()]
    if isinstance(target, int):
        return [target]
    if not isinstance(target, str):
        return list(dict.fromkeys(target))
    count = int(target.partition(":")[2] or 1)
    return outputs.argsort(descending=True, stable=True)[:count].tolist()


class ExplainedImages:
    """The images of a spec by their position, as stored; decoded in blocks of 64.

    Two blocks are kept, or all images where the spec lists them.

    Args:
        spec: of the job.
        run: has the bytes of the datasets.

    Raises:
        SpecError: if an index is beyond the end of its set.
        DataMissingError: if a built-in set is not available to the worker.
    """

    def __init__(self, spec: Explanation, run: Run) -> None:
        self._refs, self._run = spec.each_image, run
        self._images: dict[int, UInt8[np.ndarray, "h w c"]] = {}
        if isinstance(spec.images, ImageRange):
            last = spec.images.first + spec.images.count - 1
            _read({"images.count": self._refs[-1]}, run, f"images reach to index {last}")
        else:
            self._keep(range(len(self._refs)))

    def __getitem__(self, position: int) -> UInt8[np.ndarray, "h w c"]:
        if position not in self._images:
            if len(self._images) > BLOCK:
                self._images.clear()
            first = position // BLOCK * BLOCK
            self._keep(range(first, min(first + BLOCK, len(self._refs))))
        return self._images[position]

    def _keep(self, positions: range) -> None:
        """Decode images; each dataset is opened once."""
        by_set: dict[tuple[str, str], dict[str, ImageRef]] = {}
        for position in positions:
            ref = self._refs[position]
            by_set.setdefault((ref.dataset, ref.split), {})[f"images.{position}"] = ref
        for refs in by_set.values():
            for field, image in _read(refs, self._run).items():
                self._images[int(field.rpartition(".")[2])] = image


def load_others(spec: Explanation, run: Run, subject: Subject) -> None:
    """Load the images that serve as baselines into ``subject.space``.

    Raises:
        SpecError: if an index is beyond the end of its set, or a set has too few images.
        DataError: if the channels of one do not fit.
    """
    for field, ref in spec.other_images():
        if ref.key not in subject.space.others:
            (image,) = _read({field: ref}, run).values()
            subject.space.others[ref.key] = prepare(image, subject, field)
    for field, part in spec.sampled_sets():
        key = part.dataset, part.split
        if key not in subject.space.samples:
            subject.space.samples[key] = _sample(part, spec.seed, field, run, subject)
        if len(subject.space.samples[key]) <= part.draws:
            raise SpecError(
                f"{field}.draws is {part.draws}; {part.dataset} has "
                f"{len(subject.space.samples[key])} images there, use fewer draws than that"
            )


def _sample(
    part: DatasetSamples, seed: int, field: str, run: Run, subject: Subject
) -> UInt8[Tensor, "n c h w"]:
    """At most 64 images of a part, without repetition, by the seed of the job."""
    first = ImageRef(dataset=part.dataset, sha256=part.sha256, read=part.read, split=part.split)
    with open_part(first, run, field) as (images, _):
        row = torch.zeros(1, dtype=torch.int64)
        order = philox.words((seed, 11), philox.NOISE, row, images.count)[0].argsort(stable=True)
        drawn = images.picked(order[:POOL].tolist())
    pixels = torch.stack([prepare(image, subject, field) for image in drawn])
    return (pixels * 255).round().to(torch.uint8)


def _read(
    refs: dict[str, ImageRef], run: Run, asked: str = ""
) -> dict[str, UInt8[np.ndarray, "h w c"]]:
    """Images of one split of one dataset, by field of the spec; only these are decoded.

    Args:
        refs: by field.
        run: has the bytes.
        asked: what the spec asks for, in an error; each index if empty.
    """
    field, first = next(iter(refs.items()))
    with open_part(first, run, field) as (part, _):
        for name, ref in refs.items():
            if ref.index >= part.count:
                raise SpecError(
                    f"{name}{': ' + asked if asked else f'.index is {ref.index}'}; {ref.dataset} "
                    f"has images 0 to {part.count - 1} there"
                )
        return dict(zip(refs, part.picked([ref.index for ref in refs.values()]), strict=True))


@contextmanager
def open_part(ref: ImageRef, run: Run, field: str) -> Generator[tuple[ImagePart, list[str]]]:
    """The part of a dataset that holds an image, before it is decoded, and the set's classes.

    Args:
        ref: the image.
        run: has the bytes of the dataset.
        field: names the image in errors.

    Raises:
        SpecError: if the set has no such part.
        DataMissingError: if a built-in set is not available to the worker.
    """
    if ref.dataset == "photos":
        yield ImagePart(len(samples.PHOTOS), NO_LABELS, _photos), []
    elif ref.dataset in BUILTIN:
        arrays = samples.images(ref.dataset)
        _check_part(field, ref, ("train", "test"))
        part = getattr(arrays, ref.split)
        whole = ImagePart(len(part.images), part.labels, _pictures(part.images))
        yield whole, arrays.classes
    else:
        with files.open_images(run.input(ref), ref.read) as opened:
            if opened.labelled:
                _check_part(field, ref, opened.parts)
            yield opened.part(ref.split), opened.classes


def _pictures(images: UInt8[np.ndarray, "n h w c"]) -> Callable[..., Iterator[Picture]]:
    """Reads images of an array; their position is their name."""
    return lambda positions: ((str(index), images[index]) for index in positions)


def _photos(positions: Sequence[int]) -> Iterator[Picture]:
    return ((Path(samples.PHOTOS[index]).name, samples.photo(index)) for index in positions)


def _check_part(field: str, ref: ImageRef, parts: Collection[str]) -> None:
    if ref.split not in parts:
        raise SpecError(
            f"{field}.split is {ref.split!r}; {ref.dataset} has the parts {', '.join(parts)}"
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
