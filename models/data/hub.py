"""Labelled images as a dataset repository of Hugging Face's hub: parquet files and a card."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8
from PIL import Image

from models.core.errors import DataError
from models.core.spec import ReadOptions
from models.data import files, samples, sets
from models.data.arrays import ImageArrays
from models.data.builtin import BUILTIN
from models.data.contents import Contents
from models.data.sets import ImagePart, ImageSet

ROWS_A_FILE, ROWS_A_BATCH = 20_000, 500
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CHANNELS = (1, 3)  # of pictures that come back as they were
CARD = """---
configs:
- config_name: default
  data_files:
{files}
task_categories:
- image-classification
---
# {name}

{counts} images of {classes} classes, exported from Sextant. `image` is PNG, `label` counts from 0.
"""


def of_builtin(name: str) -> ImageSet:
    """A built-in set of labelled images.

    Raises:
        DataError: if it holds something else.
    """
    arrays: ImageArrays = samples.images(name)
    parts = {"train": arrays.train, "test": arrays.test}
    return ImageSet(
        {part: sets.of_array(*each, part) for part, each in parts.items()},
        arrays.classes,
        Contents(),
    )


def write(opened: ImageSet, name: str, folder: Path) -> dict[str, int]:
    """Write ``README.md`` and ``data/PART-00000-of-00001.parquet``, as ``datasets`` reads them.

    Args:
        opened: labelled images, of any sizes, with one channel or three.
        name: of the set, for its card.
        folder: is made.

    Returns:
        Images by part.

    Raises:
        DataError: for photographs without labels, and images of other channels.
    """
    if not opened.labelled:
        raise DataError(
            "the pictures have no labels",
            hint="a folder of pictures is a dataset of the hub as it is: upload that",
        )
    (folder / "data").mkdir(parents=True)
    schema = _schema(opened.classes)
    for part_name, part in opened.parts.items():
        count, rows = max(1, -(-part.count // ROWS_A_FILE)), _rows(part)
        for index in range(count):
            path = folder / "data" / f"{part_name}-{index:05}-of-{count:05}.parquet"
            _write_file(path, islice(rows, ROWS_A_FILE), schema)
    counts = {part_name: part.count for part_name, part in opened.parts.items()}
    (folder / "README.md").write_text(_card(name, counts, len(opened.classes)))
    return counts


def _schema(classes: Sequence[str]) -> pa.Schema:
    """Columns, with the features that the library ``datasets`` keeps in the metadata."""
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(classes), "_type": "ClassLabel"},
    }
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([("image", IMAGE), ("label", pa.int64())], metadata=about)


def _rows(part: ImagePart) -> Iterator[dict[str, Any]]:
    labelled = zip(part.pictures(), part.labels.tolist(), strict=True)
    for position, ((name, image), label) in enumerate(labelled):
        picture = {"bytes": _png(image, name), "path": f"{position:07}.png"}
        yield {"image": picture, "label": label}


def _write_file(path: Path, rows: Iterator[dict[str, Any]], schema: pa.Schema) -> None:
    with pq.ParquetWriter(path, schema) as writer:
        while some := list(islice(rows, ROWS_A_BATCH)):
            writer.write_batch(pa.RecordBatch.from_pylist(some, schema=schema))


def _png(image: UInt8[np.ndarray, "h w c"], name: str) -> bytes:
    if image.shape[2] not in CHANNELS:
        raise DataError(
            f"{name} has {image.shape[2]} channels; pictures of the hub have 1 or 3",
            hint="keep such a set as npz",
        )
    file = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(file, "png")
    return file.getvalue()


def _card(name: str, counts: dict[str, int], classes: int) -> str:
    files = "\n".join(f"  - split: {part}\n    path: data/{part}-*.parquet" for part in counts)
    listed = ", ".join(f"{count} {part}" for part, count in counts.items())
    return CARD.format(name=name, files=files, counts=listed, classes=classes)


def export(dataset: Mapping[str, Any], content: Path, folder: Path) -> dict[str, int]:
    """Write a dataset as the service describes it.

    Args:
        dataset: ``name, format, options``; a built-in one by its name alone.
        content: bytes of an uploaded one.
        folder: is made.

    Returns:
        Images by part.

    Raises:
        DataError: if it holds no labelled images.
    """
    name, form = dataset["name"], dataset["format"]
    if name in BUILTIN:
        return write(of_builtin(name), name, folder)
    if form not in files.FORMATS:
        raise DataError(f"{name} is {form}; labelled images alone can be written for the hub")
    with files.open_images(content, ReadOptions(**dataset["options"])) as opened:
        return write(opened, name, folder)
