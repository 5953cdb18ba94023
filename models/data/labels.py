"""Class labels and class names from strangers."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from models.core.errors import DataError

CLASSES = 100_000


def checked_labels(values: np.ndarray, count: int, name: str) -> Int64[np.ndarray, "n"]:
    """Labels of ``count`` images as int64.

    Raises:
        DataError: if they are not integers, not ``count``, or out of range.
    """
    if not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"{name}: values of {values.dtype}; class labels are integers from 0")
    if values.shape != (count,):
        raise DataError(f"{name}: shape {values.shape} for {count} images; give one label each")
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
