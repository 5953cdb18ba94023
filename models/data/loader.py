"""Images decoded ahead of the steps, by torch's DataLoader: in this process or in others."""

import atexit
import ctypes
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.core.errors import DataError
from models.data.augment import CropKey
from models.data.decoder import Decoder
from models.data.slots import Slots

PREFETCHED = 2  # pieces of batches, of each process
SLOT_BYTES = 8 * 2**20  # of a piece, at most, where an image has no more
PIECE = 64  # images of a piece, at most: the first batch takes several processes
MOST_PROCESSES = 16
LEAST_CPUS = 3  # fewer leave no core to a process
PR_SET_PDEATHSIG = 1
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 32 * 2**20  # freed memory that stays with a process: new pages cost a fault each
LINGER_S = 120  # that a process goes on after SIGTERM: longer than a stop takes


class PictureRequest(NamedTuple):
    """An image to decode.

    Attributes:
        part: to which it belongs.
        position: in the part.
        size: smaller height and width; None: the usual ones.
        crop: chooses a random part of the picture; None: as it is fitted.
    """

    part: str
    position: int
    size: tuple[int, int] | None = None
    crop: CropKey | None = None


Batches = Callable[[], Iterator[list[PictureRequest]]]


def processes_for(device: str, ranks: int) -> int:
    """Loader processes of a rank: on a GPU one a core but for the training itself, else none.

    A training on a CPU computes on every core that it has; further processes would take from it.

    Args:
        device: ``cpu`` or ``cuda``.
        ranks: processes of the training that share the cores.
    """
    cpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    cpus = min(cpus, int(os.environ.get("OMP_NUM_THREADS") or cpus)) // ranks
    if device != "cuda" or cpus < LEAST_CPUS:
        return 0
    return min(MOST_PROCESSES, cpus - 1)


@dataclass
class Loader:
    """Decodes images, batch by batch, in the order asked for.

    The processes start with the first batch and stay; they are spawned, since this process has
    threads. They decode pieces of batches into memory that they share with this one.

    Attributes:
        decoders: by name of the part; their images have one shape.
        processes: that decode; 0: this one, when a batch is taken.
        pinned: whether batches lie in memory that a GPU reads by itself.
    """

    decoders: Mapping[str, Decoder]
    processes: int = 0
    pinned: bool = False
    _threads: int = field(default=1, init=False)

    def image(self, request: PictureRequest) -> UInt8[np.ndarray, "h w c"]:
        """One image, at once, in this process."""
        return self.decoders[request.part].image(*request[1:])

    def read(self, batches: Batches) -> Iterator[UInt8[Tensor, "b h w c"]]:
        """The batches of some requests, in order; what was read before is broken off.

        Args:
            batches: makes the iterator over the requests of each; called once.

        Raises:
            DataError: naming a picture that cannot be used.
            BrokenOffError: if a later call came before its end.
        """
        turn = self._plan.begin(batches)
        if self.processes and self._loader._iterator is None:
            atexit.register(self.close)  # before multiprocessing waits for its children
            self._threads = torch.get_num_threads()
            torch.set_num_threads(1)  # on cores that decode, several would wait for each other
        batch = torch.empty(0, dtype=torch.uint8)
        for made in self._loader:
            if isinstance(made, DataError):
                raise made
            if made.first == 0:
                shape = (made.total, *made.shape[1:])
                batch = torch.empty(shape, dtype=torch.uint8, pin_memory=self.pinned)
            end = made.first + made.shape[0]
            # the slot is written anew only after the next piece but one was asked for
            batch.numpy()[made.first : end] = self._slots.array(made.slot, made.shape)
            if end == made.total:
                yield batch
                if self._plan.turn != turn:
                    raise BrokenOffError

    @cached_property
    def _slots(self) -> Slots:
        """One more than the pieces that are under way while one is read."""
        largest = max(math.prod(each.shape()) for each in self.decoders.values())
        size = largest * min(PIECE, max(1, SLOT_BYTES // largest))
        return Slots(PREFETCHED * self.processes + 2, size)

    @cached_property
    def _plan(self) -> "_Plan":
        return _Plan(self._slots, self.decoders)

    def close(self) -> None:
        """End the processes; they would start again with the next batch."""
        iterator, self._loader._iterator = self._loader._iterator, None
        if iterator is not None and self.processes:
            torch.set_num_threads(self._threads)
            # dropping it is not enough: a reader that was broken off holds it too
            atexit.unregister(self.close)
            iterator._shutdown_workers()  # ty: ignore[missing-attribute]

    @cached_property
    def _loader(self) -> DataLoader:
        several = self.processes > 0
        return DataLoader(
            _Pictures(self.decoders, self._slots),
            batch_sampler=self._plan,  # ty: ignore[invalid-argument-type]  # whatever is picked by
            num_workers=self.processes,
            collate_fn=_as_it_is,
            persistent_workers=several,
            prefetch_factor=PREFETCHED if several else None,
            multiprocessing_context="spawn" if several else None,
            worker_init_fn=_bind,
            generator=torch.Generator(),  # else it draws from the streams of the training
        )


class BrokenOffError(Exception):
    """Other images were asked for meanwhile."""


class _Piece(NamedTuple):
    """Neighbouring images of a batch.

    Attributes:
        requests: of its images.
        slot: that takes them.
        first: index of the first of them in the batch.
        total: images of the batch.
    """

    requests: Sequence[PictureRequest]
    slot: int
    first: int
    total: int


class _Made(NamedTuple):
    """Where a piece lies: its slot, and the shape of its pixels there."""

    slot: int
    shape: tuple[int, int, int, int]
    first: int
    total: int


class _Plan:
    """The pieces of the present turn, as DataLoader's sampler of batches."""

    def __init__(self, slots: Slots, decoders: Mapping[str, Decoder]) -> None:
        self.turn = 0
        self._slots, self._decoders = slots, decoders
        self._slot = 0
        self._batches: Batches = lambda: iter(())

    def begin(self, batches: Batches) -> int:
        self._batches = batches
        self.turn += 1
        return self.turn

    def __iter__(self) -> Iterator[_Piece]:
        for requests in self._batches():
            image = self._decoders[requests[0].part].shape(requests[0].size)
            count = min(PIECE, self._slots.size // math.prod(image))
            for first in range(0, len(requests), count):
                yield _Piece(requests[first : first + count], self._slot, first, len(requests))
                self._slot = (self._slot + 1) % self._slots.count


class _Pictures(Dataset):
    """Decodes pieces; an error is handed over as it is, since DataLoader rewords it."""

    def __init__(self, decoders: Mapping[str, Decoder], slots: Slots) -> None:
        self._decoders, self._slots = decoders, slots

    def __getitems__(self, piece: _Piece) -> _Made | DataError:
        image = self._decoders[piece.requests[0].part].shape(piece.requests[0].size)
        shape = (len(piece.requests), *image)
        pixels = self._slots.array(piece.slot, shape)
        try:
            for k, x in enumerate(piece.requests):
                pixels[k] = self._decoders[x.part].image(*x[1:])
        except DataError as error:
            return error
        return _Made(piece.slot, shape, piece.first, piece.total)


def _as_it_is(batch: object) -> object:
    return batch


def _bind(_: int) -> None:
    """A loader process ends with the one that trains; stops are for that one, which ends this."""
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(LINGER_S))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if hasattr(library, "mallopt"):  # glibc
            for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
                library.mallopt(option, KEPT_BYTES)
