"""Labelled images as numpy arrays, and the split of a set that brings none. Torch-free."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8

TEST_SHARE = 0.2  # of a set that comes without a test part


class Labelled(NamedTuple):
    """Images of one size and the class of each."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int64[np.ndarray, "n"]


class ImageArrays(NamedTuple):
    """A set of labelled images; ``classes`` are names in the order of the labels."""

    train: Labelled
    test: Labelled
    classes: list[str]


def held_out(labels: Int64[np.ndarray, "n"], count: int) -> Bool[np.ndarray, "n"]:
    """Which ``count`` images to hold out: of each class its share, evenly spread, no chance.

    Shares that do not come out whole are rounded by largest remainder, ties to the lower class.
    """
    names, sizes = np.unique(labels, return_counts=True)
    exact = sizes * (count / len(labels))
    taken = np.floor(exact).astype(np.int64)
    missing = count - int(taken.sum())
    taken[np.argsort(taken - exact, kind="stable")[:missing]] += 1
    held = np.zeros(len(labels), dtype=bool)
    for name, size, share in zip(names, sizes, taken, strict=True):
        steps = np.arange(size + 1) * share // size
        held[np.flatnonzero(labels == name)[np.diff(steps) > 0]] = True
    return held


def split(whole: Labelled, classes: list[str]) -> ImageArrays:
    """A set without a test part: a fifth of each class is held out, always the same images."""
    test = held_out(whole.labels, round(TEST_SHARE * len(whole.labels)))
    return ImageArrays(
        Labelled(whole.images[~test], whole.labels[~test]),
        Labelled(whole.images[test], whole.labels[test]),
        classes,
    )
