"""What a kind needs of the datasets and artifacts that its spec names. Torch-free.

The service knows a dataset's counts and an artifact's role before any worker looks at the bytes, so
it can refuse at once what could only fail later.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

Form = Literal[
    "labelled images",
    "photographs",
    "an elevation",
    "a net",
    "a series",
    "surveyed levels",
    "regions of images",
    "fields over time",
]
# a count that every dataset of the form has, and no other
MARKS: Mapping[str, Form] = {
    "train": "labelled images",
    "images": "photographs",
    "rows": "an elevation",
    "tensors": "a net",
    "moments": "a series",
    "marks": "surveyed levels",
    "regions": "regions of images",
    "frames": "fields over time",
}
IN_WORDS = {
    "a series": "a series of {moments} moments in {values} columns",
    "surveyed levels": "{marks} surveyed levels",
    "regions of images": "{regions} regions of {annotated} images",
    "fields over time": "{frames} fields over time of {variables} variables",
}
UNITS = {
    "train": "training images",
    "test": "test images",
    "height": "pixels of height",
    "width": "pixels of width",
    "cell_size_m": "metres a cell",
    "rain_variables": "variable of rain",
    "training_operations": "operations in training mode",
    "open_batch": "open axis of images (dynamic_shapes)",
    "open_sides": "open sides of an image (dynamic_shapes)",
}
TOLERANCE = 1e-3  # of a size in metres, relative
WEIGHTS = ("weights", "checkpoint")  # roles of artifacts that hold a trained net


class DatasetInfo(NamedTuple):
    """A dataset as its check described it.

    Attributes:
        name: what specs call it.
        counts: such as ``train, test, classes, height, width, channels`` of labelled images,
            ``images`` of photographs, ``rows, columns, cell_size_m`` of an elevation, ``tensors,
            parameters, operations, training_operations, open_batch, open_sides`` of a net,
            ``moments, values`` of a series, ``marks`` of surveyed levels, ``regions, annotated`` of
            regions of images, ``frames, variables, rain_variables`` of fields over time; what could
            not be known is absent.
    """

    name: str
    counts: Mapping[str, float | int]

    @property
    def form(self) -> Form | None:
        """What kind of data it is; None if the counts do not tell."""
        return next((form for count, form in MARKS.items() if count in self.counts), None)

    def __str__(self) -> str:
        c = {name: f"{count:g}" for name, count in self.counts.items()}
        match self.form:
            case "labelled images":
                size = " x ".join(c[name] for name in ("height", "width", "channels") if name in c)
                size = f"{c['sizes']} sizes" if "sizes" in c else size or "unknown size"
                parts = f"{c['train']} training and {c.get('test', 'unknown')} test images"
                return f"{parts} of {size} in {c.get('classes', '?')} classes"
            case "photographs":
                return f"{c['images']} photographs without labels"
            case "an elevation":
                cell = f"{c['cell_size_m']} m" if "cell_size_m" in c else "unknown size"
                return f"an elevation of {c['rows']} x {c.get('columns', '?')} cells of {cell}"
            case "a net":
                program = "operations" in c
                return "a net as a program" if program else f"weights of {c['tensors']} tensors"
        text = IN_WORDS.get(self.form or "", "data of unknown form")
        return text.format_map(defaultdict(lambda: "?", c))


class Lack(NamedTuple):
    """What is missing: the JSON pointer, within the spec, of the field that asks for it; why."""

    pointer: str
    reason: str


class Bound(NamedTuple):
    """What one count of a dataset must be.

    Attributes:
        count: its name.
        least: smallest value.
        most: largest value.
        among: if not empty, the only values.
        field: JSON pointer, within the spec, of the field that asks for it; empty: the reference.
        remedy: what to change other than the dataset.
        required: whether a dataset without this count is refused as well.
    """

    count: str
    least: float | int = 0
    most: float | int = math.inf
    among: tuple[float | int, ...] = ()
    field: str = ""
    remedy: str = ""
    required: bool = False

    def admits(self, counts: Mapping[str, float | int]) -> bool:
        """Whether counts lie within; of a count that is absent nothing is known."""
        value = counts.get(self.count)
        if value is None:
            return not self.required
        return self.least <= value <= self.most and (not self.among or value in self.among)

    def __str__(self) -> str:
        unit = UNITS.get(self.count, self.count)
        if self.among:
            return f"{' or '.join(f'{value:g}' for value in self.among)} {unit}"
        if self.most < math.inf:
            middle = (self.least + self.most) / 2
            return f"{middle:g} {unit}"
        return f"at least {self.least:g} {unit}" if self.least else f"known {unit}"


class DatasetNeed(NamedTuple):
    """What the dataset at ``pointer`` must be: of one of these forms, within its bounds."""

    pointer: str
    forms: Mapping[Form, tuple[Bound, ...]]

    def lacks(self, dataset: DatasetInfo) -> Iterator[Lack]:
        """All that a dataset lacks; nothing for one of unknown form."""
        if dataset.form is not None and dataset.form not in self.forms:
            wanted = " or ".join(self.forms)
            yield Lack(f"{self.pointer}/dataset", f"needs {wanted}; {dataset.name} is {dataset}")
            return
        for bound in self.forms.get(dataset.form, ()) if dataset.form else ():
            if not bound.admits(dataset.counts):
                reason = f"needs {bound}; {dataset.name} is {dataset}"
                remedy = f": {bound.remedy}" if bound.remedy else ""
                yield Lack(bound.field or f"{self.pointer}/dataset", reason + remedy)


class StoredArtifact(NamedTuple):
    """An artifact as the service knows it: its name, its role, the kind of its job."""

    name: str
    role: str
    kind: str


class ArtifactNeed(NamedTuple):
    """What the artifact at ``pointer`` must be.

    Attributes:
        pointer: of the reference within the spec.
        roles: it has one of these.
        kinds: its job is of one of these; any if empty.
        names: patterns, one of which its name follows.
    """

    pointer: str
    roles: tuple[str, ...]
    kinds: tuple[str, ...] = ()
    names: tuple[str, ...] = ("*",)

    def lacks(self, artifact: StoredArtifact) -> Iterator[Lack]:
        """What is wrong with an artifact, if anything is."""
        fits = (
            artifact.role in self.roles
            and (not self.kinds or artifact.kind in self.kinds)
            and any(fnmatchcase(artifact.name, pattern) for pattern in self.names)
        )
        if not fits:
            actual = f"{artifact.name} has the role {artifact.role} in a job of {artifact.kind}"
            yield Lack(f"{self.pointer}/artifact", f"needs {self}; {actual}")

    def __str__(self) -> str:
        role = f"an artifact of role {' or '.join(self.roles)}"
        name = f" called {' or '.join(self.names)}" if self.names != ("*",) else ""
        kind = f" of a job of kind {' or '.join(self.kinds)}" if self.kinds else ""
        return role + name + kind


Need = DatasetNeed | ArtifactNeed
