"""An array written chunk by chunk as a Zarr store of version 3, a file for each chunk.

``zarr.open("maps.zarr")["maps"]`` reads it, as do xarray, dask and TensorStore. The format:
https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html: JSON beside raw bytes.
"""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DESCRIPTION = "zarr.json"
LEVEL = 1  # of gzip: higher ones take several times as long for a few per cent


class ZarrArray:
    """An array of float32 with chunks along its first axis.

    Args:
        run_dir: folder of the run.
        store: folder of the group in it, such as ``maps.zarr``.
        name: of the array in the group.
        shape: of the whole array.
        chunk: length of a chunk along the first axis; the other axes are whole.
    """

    def __init__(
        self, run_dir: Path, store: str, name: str, shape: Sequence[int], chunk: int
    ) -> None:
        self._run_dir, self._store, self._name = run_dir, store, name
        self.shape, self.chunk = tuple(shape), chunk

    def describe(self, axes: Sequence[str], attributes: Mapping[str, Any]) -> list[str]:
        """Write the descriptions of the group and of the array.

        Args:
            axes: their names.
            attributes: of the group, for people.

        Returns:
            Names of the files within the run's folder.
        """
        group = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
        array = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": self.shape,
            "data_type": "float32",
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": (self.chunk, *self.shape[1:])},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": "NaN",  # what a chunk that is not there reads as
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "gzip", "configuration": {"level": LEVEL}},
            ],
            "dimension_names": list(axes),
            "attributes": {},
        }
        files = {
            f"{self._store}/{DESCRIPTION}": group,
            f"{self._store}/{self._name}/{DESCRIPTION}": array,
        }
        for file, contents in files.items():
            text = json.dumps(contents, indent=1, allow_nan=False)
            self._write(file, text.encode())
        return list(files)

    def write(self, index: int, values: np.ndarray) -> str:
        """Write a chunk; the last one may be shorter than the others.

        Equal values give equal bytes.

        Args:
            index: of the chunk along the first axis.
            values: float32 [m, ...] with m at most the length of a chunk.

        Returns:
            Name of the file within the run's folder.
        """
        full = np.full((self.chunk, *self.shape[1:]), np.nan, dtype="<f4")
        full[: len(values)] = values
        key = "/".join(map(str, (index, *(0 for _ in self.shape[1:]))))
        name = f"{self._store}/{self._name}/c/{key}"
        self._write(name, gzip.compress(full.tobytes(), LEVEL, mtime=0))
        return name

    def _write(self, name: str, content: bytes) -> None:
        path = self._run_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
