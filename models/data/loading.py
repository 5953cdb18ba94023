"""Whether the images of a set are decoded once into memory, or each time they are needed."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple
from uuid import uuid4

import torch
from jaxtyping import Int64
from torch import Tensor

from models.core import ranks
from models.core.errors import DataError, SpecError
from models.core.json_text import parse_json
from models.core.run import Run
from models.core.spec import DatasetRef
from models.data import files, images, picture_index, selection
from models.data.builtin import BUILTIN
from models.data.decode import decode
from models.data.decoder import Decoder
from models.data.images import ImageData
from models.data.loader import Loader, processes_for
from models.data.parts import TEST, TRAIN
from models.data.picture_index import PictureReader
from models.data.sets import ImageSet
from models.data.spec import ImageOptions, Loading
from models.data.stored import StoredImages

# Decoded pixels of a set that auto keeps in memory. Half of what a part may take there at most:
# choosing and holding out images copies them once.
IN_MEMORY_BYTES = 4 * 2**30
SAMPLED = 20_000  # training images of a larger set that mean and deviation are taken of
FEW = 1024  # images that no process is started for
CHUNK = 64  # images that are decoded at once for that
PROBED = 16  # images of which one may have colours


def load(
    ref: DatasetRef,
    options: ImageOptions,
    run: Run,
    seed: int,
    held: Callable[[int], int],
    loading: Loading,
    processes: int | None = None,
) -> ImageData:
    """Read a set onto the run's device, or make ready to decode its images as they are needed.

    Both ways give the same images in the same order with the same random changes. Mean and
    deviation are of all training images too where the set would fit into memory, else of
    ``SAMPLED`` of them, evenly spread.

    Args:
        ref: the set.
        options: part of the images to take, and their size.
        run: names device and inputs.
        seed: chooses the part.
        held: how many of so many training images to hold out for validation.
        loading: ``memory``, ``stream``, or ``auto``: as the size of the set asks.
        processes: that decode; None: as the machine has cores.

    Raises:
        DataError: if the data is not there or cannot be used.
        SpecError: if more images are asked for than there are, or the set cannot be streamed.
    """
    if loading == "memory" or ref.dataset in BUILTIN:
        if loading == "stream":
            raise _no_stream(f"{ref.dataset} is built in")
        return images.load(ref, options, run, seed, held)
    with files.open_images(run.input(ref), ref.read) as opened:
        if _streams(opened, options, loading):
            if processes is None:
                processes = processes_for(run.device, ranks.world_size())
            return _Streamed(opened, ref, options, run, seed).data(held, processes)
    return images.load(ref, options, run, seed, held)


def _no_stream(why: str) -> SpecError:
    return SpecError(
        f"loading stream needs pictures that lie encoded in a zip, an uncompressed tar or parquet:"
        f" {why}; give loading memory or leave it out",
        pointer="/loading",
    )


def _streams(opened: ImageSet, options: ImageOptions, loading: Loading) -> bool:
    encoded = all(part.files is not None for part in opened.parts.values())
    if loading == "stream" and not encoded:
        raise _no_stream("this set holds arrays of pixels")
    if not opened.labelled or not encoded:
        return False
    return loading == "stream" or _decoded_bytes(opened, options) > IN_MEMORY_BYTES


def _decoded_bytes(opened: ImageSet, options: ImageOptions) -> int:
    """Of all images, by the size of the first."""
    count = sum(opened.parts[part].count for part in (TRAIN, TEST))
    if opened.parts[TRAIN].count == 0:
        return 0
    height, width, channels = opened.parts[TRAIN].picked([0])[0].shape
    side = options.image_size
    return count * channels * (side or height) * (side or width)


class _Chosen(NamedTuple):
    """Images of a part: their positions in it and their labels, int64 [n]."""

    part: str
    positions: Int64[Tensor, "n"]
    labels: Int64[Tensor, "n"]


class _Streamed:
    """The steps from an open set to data that is decoded as it is needed."""

    def __init__(
        self, opened: ImageSet, ref: DatasetRef, options: ImageOptions, run: Run, seed: int
    ) -> None:
        self._opened, self._options, self._run, self._seed = opened, options, run, seed
        self._name, self._path = ref.dataset, run.input(ref)
        cache = picture_index.cache_of(run)
        self._index = picture_index.index_of(opened, self._path, ref.read, str(ref.sha256), cache)
        self._in_memory = _decoded_bytes(opened, options) <= IN_MEMORY_BYTES

    def data(self, held: Callable[[int], int], processes: int) -> ImageData:
        train, validation, test = self._chosen(held)
        on, shape = self._run.device, self._shape(train)
        decoders = {part: self._decoder(part, shape) for part in (TRAIN, TEST)}
        loader = Loader(decoders, processes, pinned=on == "cuda")
        mean, std = self._moments(train, shape, loader)

        def stored(chosen: _Chosen) -> tuple[StoredImages, Tensor]:
            pictures = StoredImages(loader, chosen.part, chosen.positions, shape, on)
            return pictures, chosen.labels.to(on)

        self._run.say(
            f"images are decoded as they are needed: {len(train.positions)} for training, by"
            f" {processes or 'no'} further processes"
        )
        return ImageData(
            *stored(train),
            *stored(test),
            self._index.classes,
            mean,
            std,
            *(stored(validation) if validation else ()),
            digest=self._index.digest,
        )

    def _chosen(self, held: Callable[[int], int]) -> tuple[_Chosen, _Chosen | None, _Chosen]:
        """Images for training, validation and testing: those that the in-memory source takes."""
        train, test = (self._all(part) for part in (TRAIN, TEST))
        for pair in (train, test):
            if len(pair[0]) == 0:
                raise DataError(
                    "there are too few images to hold out a fifth of each class for testing",
                    hint="use more images, or name a test part",
                )
        if self._options.subset is not None:
            train = selection.subset(train, self._options.subset, self._seed)
        train, validation = selection.hold_out(train, held(len(train[1])), self._seed)
        aside = None if validation is None else _Chosen(TRAIN, *validation)
        return _Chosen(TRAIN, *train), aside, _Chosen(TEST, *test)

    def _all(self, part: str) -> list[Tensor]:
        rows = self._index.rows(part)
        return [torch.arange(len(rows)), torch.from_numpy(rows["label"].astype("int64"))]

    def _decoder(self, part: str, shape: tuple[int, ...]) -> Decoder:
        reader = PictureReader(self._path, self._index.folder, part)
        fit = None if self._options.image_size is None else self._options.fit
        return Decoder(reader, (shape[0], shape[1]), fit, shape[2])

    def _moments(
        self, train: _Chosen, shape: tuple[int, int, int], loader: Loader
    ) -> tuple[list[float], list[float]]:
        """Mean and deviation of the training images; kept beside the lists of the set.

        Raises:
            DataError: if the images are all alike.
        """
        sample = train.positions
        if not self._in_memory and len(sample) > SAMPLED:
            sample = sample[torch.arange(SAMPLED) * len(sample) // SAMPLED]
        asked = f"{shape} {self._options.fit} {self._options.image_size}".encode()
        key = hashlib.sha256(asked + sample.numpy().tobytes()).hexdigest()
        kept = self._index.folder / f"figures-{key}.json"
        if kept.exists():
            about = parse_json(kept.read_bytes(), kept.name)
            return about["mean"], about["std"]
        if len(sample) <= FEW:
            loader = replace(loader, processes=0)
        mean, std = self._figures(StoredImages(loader, TRAIN, sample, shape, "cpu"))
        part = kept.with_suffix(f".{uuid4().hex}.part")
        part.write_text(json.dumps({"mean": mean, "std": std}))
        part.replace(kept)
        return mean, std

    def _figures(self, sample: StoredImages) -> tuple[list[float], list[float]]:
        first, alike = sample[:1], True
        counts = torch.zeros(sample.shape[3], 256, dtype=torch.int64)
        for chunk in sample.split(CHUNK):
            counts += images.histogram(chunk)
            alike = alike and bool((chunk == first).all())
            self._run.check_stop()
        if alike:
            raise selection.all_alike(len(sample), self._name)
        return images.moments(counts)

    def _shape(self, train: _Chosen) -> tuple[int, int, int]:
        """Of the first images used; channels of some, evenly spread: grey ones may come first."""
        n = len(train.positions)
        some = train.positions[torch.arange(min(n, PROBED)) * n // min(n, PROBED)].tolist()
        reader = PictureReader(self._path, self._index.folder, TRAIN)
        shapes = [decode(reader.read(x), reader.name(x)).shape for x in some]
        side = self._options.image_size
        return side or shapes[0][0], side or shapes[0][1], max(shape[2] for shape in shapes)
