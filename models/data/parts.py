"""Parts of a set: training, validation and test, by the names of folders and files."""

import re
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Int64

from models.core.errors import DataError
from models.data.arrays import TEST_SHARE, held_out
from models.data.contents import Contents

TRAIN, VALIDATION, TEST = "train", "validation", "test"
PARTS = (TRAIN, VALIDATION, TEST)
KEYWORDS: Mapping[str, str] = {  # those of Hugging Face and torchvision, and MNIST's t10k
    **dict.fromkeys(("train", "training", "trainset"), TRAIN),
    **dict.fromkeys(("validation", "valid", "val", "valset", "dev"), VALIDATION),
    **dict.fromkeys(("test", "testing", "testset", "eval", "evaluation", "t10k"), TEST),
}
_WORDS = re.compile(rf"(?:^|[-._ 0-9/])({'|'.join(KEYWORDS)})(?=[-._ 0-9/]|$)", re.IGNORECASE)


def part_of(name: str) -> str | None:
    """The part whose keyword is the last in a path, set off by ``- . _ /``, space or digits."""
    words = _WORDS.findall(name)
    return KEYWORDS[words[-1].lower()] if words else None


def grouped(names: Iterable[str], parts: Iterable[str | None]) -> dict[str, list[str]]:
    """Names by part; "" for those of none.

    Raises:
        DataError: if some belong to a part and others do not.
    """
    groups: dict[str, list[str]] = {}
    for name, part in zip(names, parts, strict=True):
        groups.setdefault(part or "", []).append(name)
    if "" in groups and len(groups) > 1:
        named = ", ".join(part for part in groups if part)
        raise DataError(
            f"{groups[''][0]}: lies beside the parts {named} and belongs to none of them",
            hint="put it into one of them; or, if no names of parts are meant, import with "
            "--split hold_out",
        )
    return groups


def chosen(
    labels: Mapping[str, Int64[np.ndarray, "_n"]], contents: Contents
) -> dict[str, tuple[str, Int64[np.ndarray, "_m"]]]:
    """Which items of which part serve for training, validation and testing.

    Args:
        labels: of each part that the set brings; under "" those of a set without parts.
        contents: takes note of the choice.

    Returns:
        The part to read and the positions in it, by ``train``, ``validation`` and ``test``.
    """
    ordered = sorted(labels, key=lambda part: PARTS.index(part) if part else 0)
    whole = {part: (part, np.arange(len(labels[part]))) for part in ordered}
    counts = " / ".join(f"{part} {len(labels[part])}" for part in PARTS if part in labels)
    if TRAIN in whole and TEST in whole:
        unused = "; validation is kept apart, training does not use it"
        contents.split = f"as named: {counts}" + (unused if VALIDATION in whole else "")
        return whole
    if TRAIN in whole and VALIDATION in whole:
        contents.split = f"as named: {counts}; there is no test part, so validation is used for it"
        return {TRAIN: whole[TRAIN], TEST: whole[VALIDATION]}
    if len(whole) > 1:
        contents.split = f"as named: {counts}; there is no train part, so validation is used for it"
        return {TRAIN: whole[VALIDATION], TEST: whole[TEST]}
    ((part, (_, positions)),) = whole.items()
    test = held_out(labels[part], round(TEST_SHARE * len(positions)))
    named = f"only a {part} part is named" if part else "no parts are named"
    contents.split = (
        f"{named}: a fifth of each class is held out, train {(~test).sum()} / test {test.sum()}"
    )
    return {TRAIN: (part, positions[~test]), TEST: (part, positions[test])}
