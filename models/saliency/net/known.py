"""What is known of images beside their pixels: their labels and their regions."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from models.core.errors import DataError, SpecError
from models.core.run import Run
from models.core.spec import DatasetRef
from models.data.fitting import fit
from models.data.regions import ImageRegions, open_regions
from models.saliency.net.images import ExplainedImages, open_part
from models.saliency.net.load import Subject
from models.saliency.spec.fields import ImageRef
from models.saliency.spec.map import Explanation

NAMED = 3  # names in an error
HALF = 127  # of 255: a resized pixel that lies in a region by more than half


class ImageLabels:
    """The classes that datasets tell of the images, as indices of the net's classes.

    Classes are matched by their names, since the same number may mean another class to the net.

    Args:
        spec: of the job.
        run: has the bytes of the datasets.
        classes: names, in the order of the net's outputs.

    Raises:
        SpecError: if a dataset has no labels, or classes that the net does not know.
    """

    def __init__(self, spec: Explanation, run: Run, classes: Sequence[str]) -> None:
        self._targets: list[int] = []
        known = {name: index for index, name in enumerate(classes)}
        for refs in _by_part(spec.each_image):
            with open_part(refs[0], run, "images") as (part, names):
                if not len(part.labels):
                    raise SpecError(
                        f"target: {refs[0].dataset} has no labels; use 'argmax' or a class index"
                    )
                wanted = [names[part.labels[ref.index]] for ref in refs]
            if missing := sorted({name for name in wanted if name not in known}):
                raise SpecError(
                    f"target: {refs[0].dataset} has the classes {', '.join(missing[:NAMED])}; the "
                    f"net's are {', '.join(classes[:NAMED])}, ...",
                    hint="label images with the names of the net's classes (model.classes of an "
                    "uploaded net), or give target as class indices",
                )
            self._targets += [known[name] for name in wanted]

    def target_of(self, position: int) -> int:
        """The class of an image of the spec."""
        return self._targets[position]


def region_masks(
    ref: DatasetRef,
    category: str | None,
    field: str,
    spec: Explanation,
    run: Run,
    images: ExplainedImages,
    subject: Subject,
) -> list[Bool[Tensor, "h w"]]:
    """The pixels of the net's input that lie in a region, for each image of a spec.

    None may, where regions were cropped away.

    Args:
        ref: the dataset of regions.
        category: which of them count; None: all.
        field: of the spec that names it, for errors.
        spec: of the job.
        run: has the bytes of the datasets.
        images: of the spec.
        subject: tells how images are brought to the size of the input.

    Raises:
        SpecError: if an image has no region, or two images have the same.
        DataError: if a region does not fit into its image.
    """
    names = [name for refs in _by_part(spec.each_image) for name in _names(refs, run)]
    with open_regions(run.input(ref)) as every:
        regions = every if category is None else every.of_category(category)
        if category is None and len(every.categories) > 1:
            run.warn(
                "categories_together",
                f"{field}: regions of {len(every.categories)} categories, such as"
                f" {', '.join(every.categories[:NAMED])}, are taken together; name one by category",
            )
        matches = [_match(regions, each) for each in names]
        shown = [each[0] for each in names]
        _refuse_missing(field, dict(zip(shown, matches, strict=True)), regions)
        _refuse_shared(field, zip(shown, matches, strict=True))
        masks = [
            _mask(regions, str(name), images[position].shape[:2], subject, field)
            for position, name in enumerate(matches)
        ]
    if unseen := [name for name, mask in zip(shown, masks, strict=True) if not mask.any()]:
        run.warn(
            "region_not_seen",
            f"{field}: of {len(unseen)} images, such as {unseen[0]}, the regions were cropped away "
            "before the net; their grades are null",
        )
    return masks


def _by_part(refs: Sequence[ImageRef]) -> Iterator[list[ImageRef]]:
    """Images of one part of one dataset that follow each other."""
    for _, group in groupby(refs, key=lambda ref: (ref.dataset, ref.split)):
        yield list(group)


def _names(refs: list[ImageRef], run: Run) -> Iterator[tuple[str, ...]]:
    """What regions may call each image: by its file, and without files by its position."""
    with open_part(refs[0], run, "images") as (part, _):
        for ref in refs:
            if part.files is not None:
                yield tuple(file.name for file in part.files([ref.index]))
            else:
                yield (*(name for name, _ in part.read([ref.index])), str(ref.index))


def _match(regions: ImageRegions, names: tuple[str, ...]) -> str | None:
    return next((match for name in names if (match := regions.name_for(name))), None)


def _refuse_missing(field: str, matches: dict[str, str | None], regions: ImageRegions) -> None:
    missing = [name for name, match in matches.items() if match is None]
    if missing:
        some = ", ".join(list(regions.by_image)[:NAMED])
        raise SpecError(
            f"{field}: {len(missing)} of {len(matches)} images have no region, such as "
            f"{', '.join(missing[:NAMED])}; there are regions of {some}, ...",
            hint="an image is found by its file name, with as much of its path as the regions "
            "write, and without files by its position; leave out images without regions",
        )


def _refuse_shared(field: str, matches: Iterable[tuple[str, str | None]]) -> None:
    first: dict[str | None, str] = {}
    for name, match in matches:
        if match in first:
            raise SpecError(
                f"{field}: the regions of {match} would be those of {first[match]} and of {name}",
                hint="write folders into the names of the regions, such as cat/1.png",
            )
        first[match] = name


def _mask(
    regions: ImageRegions, name: str, size: tuple[int, int], subject: Subject, field: str
) -> Bool[Tensor, "h w"]:
    inside = regions.mask(name, size)
    if not inside.any():
        raise DataError(f"{field}: the regions of {name} hold no pixel")
    if size != subject.size:
        drawn = (inside * 255).astype(np.uint8)[:, :, None]
        inside = fit(drawn, subject.size, subject.margin)[:, :, 0] > HALF
    return torch.from_numpy(np.ascontiguousarray(inside))
