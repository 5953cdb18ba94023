"""Class labels and class names from strangers."""

import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from models.core.errors import DataError

CLASSES = 100_000


def one_form(name: str) -> str:
    """A name in composed letters: systems write one name in two ways, which look alike."""
    return unicodedata.normalize("NFC", name)


def checked_labels(values: np.ndarray, count: int, name: str) -> Int64[np.ndarray, "n"]:
    """Labels of ``count`` images as int64.

    Raises:
        DataError: if they are not integers, not ``count``, or out of range.
    """
    if not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"{name}: values of {values.dtype}; class labels are integers from 0")
    if values.shape != (count,):
        raise DataError(
            f"{name}: shape {values.shape} for {count} images; give one label each "
            "(of one-hot rows, their argmax)"
        )
    if count == 0:
        raise DataError(f"{name}: no labels, so no images")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= CLASSES:
        raise DataError(f"{name}: labels from {low} to {high}; allowed are 0 to {CLASSES - 1}")
    return values.astype(np.int64)


def class_names(names: Sequence[str] | None, highest: int, name: str) -> list[str]:
    """Names of the classes 0, 1, ...: those given, or the numbers up to the highest label.

    Raises:
        DataError: if a label is beyond the names given.
    """
    if names is None:
        return [str(index) for index in range(highest + 1)]
    if highest >= len(names):
        raise DataError(f"{name}: label {highest}, but there are names for {len(names)} classes")
    return list(names)


def numbered(
    values: Mapping[str, np.ndarray],
    counts: Mapping[str, int],
    names: Sequence[str] | None,
    name: str,
) -> tuple[dict[str, Int64[np.ndarray, "_n"]], list[str]]:
    """Labels of all parts as numbers, and the classes: words and truth values are sorted.

    Args:
        values: labels of each part: integers, strings or truth values.
        counts: images of each part.
        names: of the classes 0, 1, ... if the labels are integers; None if unknown.
        name: names the labels in errors.

    Raises:
        DataError: if they are of another type, not one an image, or out of range.
    """
    flat = {part: _flat(array) for part, array in values.items()}
    if all(array.dtype.kind in "UTb" for array in flat.values()):
        words = {part: _words(array, name) for part, array in flat.items()}
        classes, joined = np.unique(np.concatenate(list(words.values())), return_inverse=True)
        sizes = [len(array) for array in words.values()]
        flat = dict(zip(words, np.split(joined, np.cumsum(sizes)[:-1]), strict=True))
        names = classes.tolist()
    labels = {part: checked_labels(array, counts[part], name) for part, array in flat.items()}
    highest = max(int(array.max()) for array in labels.values())
    return labels, class_names(names, highest, name)


def _words(values: np.ndarray, name: str) -> np.ndarray:
    words = np.array([one_form(word) for word in values.astype(str).tolist()])
    if missing := sum(not word.strip() for word in words.tolist()):
        raise DataError(
            f"{name}: {missing} of {len(words)} labels are empty texts", hint="leave the rows out"
        )
    return words


def _flat(values: np.ndarray) -> np.ndarray:
    """Without the axis of length 1 that Keras and MedMNIST leave."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
