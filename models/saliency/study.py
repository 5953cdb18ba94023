"""Maps of a spec and their grades, cell by cell: what evaluate and sweep share."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from models.core.errors import SpecError
from models.core.run import Run
from models.saliency.graders.registry import grade, label_of
from models.saliency.map import image_name
from models.saliency.methods.baselines import NEUTRAL_FACTOR, alone, baseline, impact
from models.saliency.methods.case import Case
from models.saliency.methods.registry import make
from models.saliency.net import load
from models.saliency.net.images import choose_targets, load_images, load_others, prepare, read_map
from models.saliency.net.run import Rows, arithmetic, chunk_size, open_net, precision_gap
from models.saliency.net.scores import check_finite, dtype_of, probe
from models.saliency.spec.evaluate import SaliencyEvaluate, SaliencySweep, is_random
from models.saliency.spec.map import Cell
from models.saliency.spec.methods import Given
from models.saliency.spec.parts import labels


class Key(NamedTuple):
    """Which map: all a record, a row of a table and a name of an array have in common."""

    image: str
    method: str
    baseline: str
    seed: int
    target: int

    @property
    def name(self) -> str:
        """For the archive of maps."""
        return f"{self.image}/{self.method}-{self.baseline}-seed{self.seed}-class{self.target}"


@dataclass
class Graded:
    """Everything found so far, in order; can be written down and read back.

    Attributes:
        maps: float32 [h, w] by key.
        grades: for each key, numbers by grader.
        curves: for each key and grader, shares and scores.
        images: what the net makes of each image, baseline impact included.
        rows: through the net.
    """

    maps: dict[Key, np.ndarray] = field(default_factory=dict)
    grades: dict[Key, dict[str, float | None]] = field(default_factory=dict)
    curves: dict[tuple[Key, str], list[tuple[float, float]]] = field(default_factory=dict)
    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    rows: int = 0

    def described(self) -> dict[str, Any]:
        """All but the maps, for JSON."""
        return {
            "keys": [list(key) for key in self.maps],
            "grades": list(self.grades.values()),
            "curves": [[*key, name, points] for (key, name), points in self.curves.items()],
            "images": self.images,
            "warnings": self.warnings,
            "rows": self.rows,
        }

    @staticmethod
    def restored(tensors: dict[str, Tensor], told: dict[str, Any]) -> "Graded":
        """From :meth:`described` and the maps by their place."""
        keys = [Key(*key) for key in told["keys"]]
        return Graded(
            {key: tensors[f"map.{place}"].numpy() for place, key in enumerate(keys)},
            dict(zip(keys, told["grades"], strict=True)),
            {
                (Key(*row[:5]), row[5]): [(float(x), float(y)) for x, y in row[6]]
                for row in told["curves"]
            },
            told["images"],
            told["warnings"],
            told["rows"],
        )


class Study:
    """One net and its images, ready to be explained.

    Raises:
        SpecError: if the spec does not fit the net or the images, or asks for too many rows.
        DataError: if an image cannot be used.
    """

    def __init__(self, spec: SaliencyEvaluate | SaliencySweep, run: Run) -> None:
        self.spec, self.run = spec, run
        self.subject = load.load_subject(spec, run)
        self.images = load_images(spec, run)
        load_others(spec, run, self.subject)
        self.given = {
            (part.name, place): read_map(run.input(ref), self.subject.size, field)
            for number, part in enumerate(spec.given)
            for place, ref in enumerate(part.maps)
            for field in [f"given.{number}.maps.{place}"]
        }
        try:
            spec.check_rows(*self.subject.size)
        except ValueError as error:
            raise SpecError(str(error)) from error
        self.rows = Rows(run, spec.rows(*self.subject.size))
        self.scorer = open_net(spec, self.subject, self.rows)
        self.chunk = chunk_size(spec, self.scorer, self.subject.size, run.device)

    def carry_out(self, found: Graded) -> None:
        """Add what ``found`` lacks, in the order of the spec; it is whole after each map."""
        self.rows.done = found.rows
        with arithmetic(self.spec):
            for position in range(len(self.images)):
                self._image(position, found)

    def _image(self, position: int, found: Graded) -> None:
        name = image_name(position, self.spec.images[position])
        wanted = [(cell, seed) for cell in self.spec.cells() for seed in self._seeds(cell)]
        done = sum(key.image == name for key in found.maps)
        if name in found.images and done == len(wanted) * len(found.images[name]["targets"]):
            return
        case = self.case(position)
        if name not in found.images:
            found.images[name] = self._describe(name, case, found)
            found.rows = self.rows.done
        for cell, seed in wanted:
            keys = [
                Key(name, cell.method_label, cell.baseline_label, seed, target)
                for target in case.targets.tolist()
            ]
            if keys[0] not in found.maps:
                self._cell(cell, seed, keys, case, found, position)

    def _seeds(self, cell: Cell) -> list[int]:
        if isinstance(self.spec, SaliencySweep) and is_random(cell.method):
            return [self.spec.seed + seed for seed in self.spec.seeds]
        return [self.spec.seed]

    def case(self, position: int) -> Case:
        """An image with its classes; the first one also serves to probe the net."""
        pixels = prepare(self.images[position], self.subject, f"images.{position}")
        pixels = pixels.to(self.run.device)
        x = self.subject.space.normalise(pixels).to(dtype_of(self.subject.net))
        if position == 0 and self.rows.done == 0:
            probe(self.scorer, x)
        outputs = self.scorer.outputs(x[None])
        targets = choose_targets(self.spec.target, outputs[0])
        index = torch.tensor(targets, device=x.device)
        full = self.scorer.read(outputs)[0, index]
        return Case(x, self.scorer, index, full, self.spec.seed, self.chunk, pixels)

    def _describe(self, name: str, case: Case, found: Graded) -> dict[str, Any]:
        """Targets with their scores, and the impact of each baseline alone (section 4.1)."""
        told: dict[str, Any] = {
            "targets": [
                {"class": target, "name": self.subject.classes[target], "score": score}
                for target, score in zip(case.targets.tolist(), case.full.tolist(), strict=True)
            ],
            "baselines": {},
        }
        if (gap := precision_gap(self.scorer, self.spec, case.x[None])) is not None:
            told["precision_difference"] = gap
        parts = zip(self.spec.baselines, labels(self.spec.baselines), strict=True)
        for part, label in parts:
            drawn = [alone(b) for b in baseline(part, case.x, self.subject.space, self.spec.seed)]
            numbers = impact(self.scorer, case.x, drawn, case.targets, self.chunk)
            told["baselines"][label] = numbers
            if max(numbers["probability"]) > NEUTRAL_FACTOR / len(self.subject.classes):
                message = f"{name}: baseline {label} is not neutral: over 10 times chance"
                found.warnings.append(message)
                self.run.warn("baseline_not_neutral", message)
        return told

    def _cell(
        self, cell: Cell, seed: int, keys: list[Key], case: Case, found: Graded, position: int
    ) -> None:
        """One map of every class, graded; kept only when all of it is done."""
        seeded = self._seeded(case, seed)
        drawn = baseline(cell.baseline, case.x, self.subject.space, seed)

        def remake(other: Case) -> Float[Tensor, "k h w"]:
            if isinstance(cell.method, Given):
                return self.given[cell.method.name, position].to(case.x.device)[None]
            return torch.stack([make(cell.method, other, b) for b in drawn]).mean(0)

        values = remake(seeded)
        check_finite(values.cpu().numpy(), keys[0].name)
        kept = {}
        for k, key in enumerate(keys):
            for place, grader in enumerate(self.spec.graders):
                kept[key, place] = grade(grader, values, seeded, k, self.subject.space, remake)
        for k, key in enumerate(keys):
            self._keep(key, values[k].float().cpu().numpy(), kept, found)
        found.rows = self.rows.done

    def _seeded(self, case: Case, seed: int) -> Case:
        return Case(case.x, self.scorer, case.targets, case.full, seed, self.chunk, case.pixels)

    def _keep(
        self, key: Key, values: np.ndarray, kept: dict[tuple[Key, int], Any], found: Graded
    ) -> None:
        found.maps[key], found.grades[key] = values, {}
        for place, name in enumerate(grader_labels(self.spec)):
            told = kept[key, place]
            found.grades[key][name] = told.value
            for title, points in told.curves.items():
                found.curves[key, f"{name}{title}"] = points
            numbers = {"map_min": float(values.min()), "map_max": float(values.max())}
            if told.value is not None:
                numbers["value"] = told.value
            self.run.log(len(found.maps), **numbers)


def grader_labels(spec: SaliencyEvaluate | SaliencySweep) -> list[str]:
    """A name for each grader: its id and baseline, numbered where that occurs more than once."""
    names = [label_of(grader) for grader in spec.graders]
    return [
        name if names.count(name) == 1 else f"{name}-{names[: place + 1].count(name)}"
        for place, name in enumerate(names)
    ]


def write_tables(found: Graded, run: Run) -> None:
    """grades.csv, curves.csv and maps.npz, the same bytes from the same numbers."""
    head = list(Key._fields)
    with (run.dir / "grades.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([*head, "grader", "value"])
        for key, grades in found.grades.items():
            table.writerows([*key, name, value] for name, value in grades.items())
    with (run.dir / "curves.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([*head, "grader", "share", "score"])
        for (key, name), points in found.curves.items():
            table.writerows([*key, name, x, y] for x, y in points)
    arrays = dict(_arrays(found))
    np.savez(run.dir / "maps.npz", allow_pickle=False, **arrays)
    for name in ("grades.csv", "curves.csv", "maps.npz"):
        run.artifact(name, role="table")


def _arrays(found: Graded) -> Iterator[tuple[str, np.ndarray]]:
    index = []
    for place, (key, values) in enumerate(found.maps.items()):
        index.append({"key": f"map{place}", **key._asdict()})
        yield f"map{place}", values
    yield "index", np.array(json.dumps(index))
