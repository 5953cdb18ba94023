"""Batches that other processes decode in pieces, into memory that all share."""

import time

import pytest
import torch

from models.data import loader as pieces
from models.data import loading
from models.data.loader import BrokenOffError
from models.data.slots import Slots
from models.data.spec import ImageOptions
from tests.models.data.pictures import learnable, packed, placed


@pytest.mark.parametrize("processes", [0, 1])
def test_batches_of_pieces_are_whole(processes, new_run, monkeypatch):
    """Of a reader slower than the decoding, of several sizes, and after one that was broken off."""
    monkeypatch.setattr(pieces, "PIECE", 3)
    ref = placed(run := new_run(), packed("tar", learnable(40)))
    threads = torch.get_num_threads()
    data = loading.load(ref, ImageOptions(), run, 0, lambda _: 0, "stream", processes=processes)
    whole, train = data.train[:], data.train
    first = train.split(7)
    assert torch.equal(next(first), whole[:7])
    assert torch.get_num_threads() == (1 if processes else threads)  # the others decode
    taken = []
    for batch in train.split(7):
        time.sleep(0.02)
        taken.append(batch)
    assert torch.equal(torch.cat(taken), whole)
    with pytest.raises(BrokenOffError):
        next(first)
    index, small = torch.tensor([5, 0, 9, 2]), (4, 4)
    (batch,) = train.read(lambda: iter([train.requests(index, small)]))
    assert batch.shape == (4, 4, 4, 3)
    train._loader.close()
    assert torch.get_num_threads() == threads


def test_slots_are_apart_and_hold_no_more_than_they_have():
    slots = Slots(2, 12)
    slots.array(0, (2, 6))[:] = 1
    slots.array(1, (3, 4))[:] = 2
    assert slots.array(0, (12,)).tolist() == [1] * 12
    with pytest.raises(ValueError, match="reshape"):
        slots.array(1, (13,))
