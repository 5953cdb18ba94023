"""Results of an evaluation: maps, grades and curves by key; their tables and their checkpoint."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.core.run import Run


class MapKey(NamedTuple):
    """Identifies a map in reports, tables and the archive."""

    image: str
    method: str
    baseline: str
    seed: int
    target: int

    @property
    def name(self) -> str:
        """The key in words, for messages."""
        return f"{self.image}/{self.method}-{self.baseline}-seed{self.seed}-class{self.target}"


@dataclass
class EvaluationResults:
    """All results so far, in the order of the spec.

    Attributes:
        maps: float32 [h, w] by key.
        grades: for each key, numbers by grader.
        curves: for each key and grader, pairs of share and score.
        images: prediction for each image, and the impact of each baseline.
        warnings: as logged.
        rows: rows through the net.
    """

    maps: dict[MapKey, np.ndarray] = field(default_factory=dict)
    grades: dict[MapKey, dict[str, float | None]] = field(default_factory=dict)
    curves: dict[tuple[MapKey, str], list[tuple[float, float]]] = field(default_factory=dict)
    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    rows: int = 0

    def metadata(self) -> dict[str, Any]:
        """Everything but the maps, ready for JSON."""
        return {
            "keys": [list(key) for key in self.maps],
            "grades": list(self.grades.values()),
            "curves": [[*key, name, points] for (key, name), points in self.curves.items()],
            "images": self.images,
            "warnings": self.warnings,
            "rows": self.rows,
        }

    def tensors(self) -> dict[str, Tensor]:
        """The maps [h, w] by their index, for a checkpoint."""
        maps = enumerate(self.maps.values())
        return {f"map.{index}": torch.from_numpy(values) for index, values in maps}

    @staticmethod
    def restored(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> "EvaluationResults":
        """The inverse of :meth:`tensors` and :meth:`metadata`."""
        keys = [MapKey(*key) for key in metadata["keys"]]
        return EvaluationResults(
            {key: tensors[f"map.{index}"].numpy() for index, key in enumerate(keys)},
            dict(zip(keys, metadata["grades"], strict=True)),
            {
                (MapKey(*row[:5]), row[5]): [(float(x), float(y)) for x, y in row[6]]
                for row in metadata["curves"]
            },
            metadata["images"],
            metadata["warnings"],
            metadata["rows"],
        )


def write_tables(results: EvaluationResults, run: Run) -> None:
    """Write grades.csv, curves.csv and maps.npz; equal numbers give equal bytes."""
    head = list(MapKey._fields)
    with (run.dir / "grades.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([*head, "grader", "value"])
        for key, grades in results.grades.items():
            table.writerows([*key, name, value] for name, value in grades.items())
    with (run.dir / "curves.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([*head, "grader", "share", "score"])
        for (key, name), points in results.curves.items():
            table.writerows([*key, name, x, y] for x, y in points)
    np.savez(run.dir / "maps.npz", allow_pickle=False, **dict(_arrays(results)))
    for name in ("grades.csv", "curves.csv", "maps.npz"):
        run.artifact(name, role="table")


def _arrays(results: EvaluationResults) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of maps.npz, the index last."""
    entries = []
    for index, (key, values) in enumerate(results.maps.items()):
        entries.append({"key": f"map{index}", **key._asdict()})
        yield f"map{index}", values
    yield "index", np.array(json.dumps(entries, allow_nan=False))
