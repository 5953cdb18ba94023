"""What the page's viewer of maps shows: the images, their maps by place in a file, the curves."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from models.core.array_offsets import member_starts, values_start
from models.core.run import Run
from models.saliency.case_builder import CaseBuilder
from models.saliency.figures.maps import Style, style
from models.saliency.net.images import prepare
from models.saliency.results import EvaluationResults, MapKey
from models.saliency.spec.fields import labels

MOST_BYTES = 4 * 2**20  # of the view; a browser reads it whole
MOST_IMAGES = 100
# which pixels are replaced first along a curve, or restored
ORDERS = {"deletion": "most", "morf": "most", "lerf": "least", "insertion": "restored"}


class ShownMap(NamedTuple):
    """A map of an image, and where its values lie.

    Attributes:
        key: method, baseline, class and, where maps differ by it, seed.
        file: artifact with the values.
        offset: of the first value in bytes; float32, little-endian, row by row.
        values: of the map.
        curves: pairs of share and score by grader.
        grades: by grader.
    """

    key: dict[str, Any]
    file: str
    offset: int
    values: Float[np.ndarray, "rows columns"]
    curves: Mapping[str, list[tuple[float, float]]] = {}
    grades: Mapping[str, float | None] = {}

    def described(self, style: Style) -> dict[str, Any]:
        """Ready for JSON; ``end`` is where the colours of this map alone would end."""
        scale = style.scale([self.values])
        return {
            **self.key,
            "file": self.file,
            "offset": self.offset,
            "shape": list(self.values.shape),
            "low": float(scale.vmin or 0),
            "high": float(scale.vmax or 0),
            "curves": {name: _columns(points) for name, points in self.curves.items()},
            "grades": dict(self.grades),
        }


def _columns(points: list[tuple[float, float]]) -> list[list[float]]:
    """Shares and scores, with as many digits as a screen shows."""
    return [[float(f"{value:.5g}") for value in column] for column in zip(*points, strict=True)]


class ShownImage(NamedTuple):
    """An image with its classes and maps; its position is that in the spec."""

    position: int
    name: str
    classes: list[dict[str, Any]]
    maps: Iterable[ShownMap]


def write(run: Run, cases: CaseBuilder, images: Iterable[ShownImage]) -> None:
    """Leave the view, with a picture of each image; as many whole images as fit, at least one.

    Args:
        run: gets the artifacts.
        cases: the net and the images.
        images: in the order of the spec; those without maps are left out.
    """
    styles = {
        label: style(method, cases.score_word)
        for method, label in zip(cases.spec.methods, labels(cases.spec.methods), strict=True)
    }
    shown, size = [], 0
    for image in images:
        maps = [each.described(_style(styles, each)) for each in image.maps]
        entry = {"name": image.name, "classes": image.classes, "maps": maps}
        size += len(json.dumps(entry))
        if not maps or (shown and (size > MOST_BYTES or len(shown) == MOST_IMAGES)):
            break
        entry["picture"] = picture(run, cases, image.position, image.name)
        shown.append(entry)
    if shown:
        curves = {name: order(name) for entry in shown for each in entry["maps"]
                  for name in each["curves"]}  # fmt: skip
        run.view("maps", {**_common(styles, cases), "orders": curves, "images": shown})


def order(curve: str) -> str | None:
    """Which pixels a curve replaces first, by its label; None for regions, which maps do not show.

    The pixels of a state can be told from the map: ties go by index.
    """
    grader, _, part = curve.partition(" ")
    return ORDERS.get(part or grader.partition("@")[0].partition("-")[0])


def _style(styles: dict[str, Style], shown: ShownMap) -> Style:
    """That of the method; a given map tells no more than its values."""
    negative = bool((shown.values < 0).any())
    given = Style(shown.key["method"], "value of the given map", negative, 1.0)
    return styles.setdefault(shown.key["method"], given)


def _common(styles: dict[str, Style], cases: CaseBuilder) -> dict[str, Any]:
    return {
        "score": cases.score_word,
        "of": len(cases.spec.each_image),
        "methods": {
            label: {
                "described": each.described,
                "quantity": each.quantity,
                "signed": each.signed,
                "open": each.ends != "neither",
            }
            for label, each in styles.items()
        },
    }


def picture(run: Run, cases: CaseBuilder, position: int, name: str) -> str:
    """Leave an image as the net sees it, as PNG; gives its name."""
    pixels = prepare(cases.images[position], cases.subject, f"images.{position}")
    values = (pixels.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    file = f"images/{name}.png"
    (run.dir / file).parent.mkdir(exist_ok=True)
    Image.fromarray(values[..., 0] if values.shape[2] not in (3, 4) else values).save(
        run.dir / file
    )
    run.artifact(file, role="image", image=name)
    return file


def of_files(
    run: Run, images: list[dict[str, Any]], maps: list[dict[str, Any]]
) -> Iterator[ShownImage]:
    """The images of a report of maps, each map in a file of its own."""
    for position, image in enumerate(images):
        own = [each for each in maps if each["image"] == image["image"]]
        yield ShownImage(position, image["image"], image["targets"], map(_alone(run), own))


def _alone(run: Run) -> Any:
    def shown(described: dict[str, Any]) -> ShownMap:
        path = run.dir / described["artifact"]
        key = {name: described[name] for name in ("method", "baseline", "class")}
        with path.open("rb") as file:
            return ShownMap(key, described["artifact"], values_start(file), np.load(path))

    return shown


def of_results(run: Run, results: EvaluationResults) -> Iterator[ShownImage]:
    """The images of an evaluation, whose maps lie in ``maps.npz`` in their order."""
    starts = dict(zip(results.maps, member_starts(run.dir / "maps.npz"), strict=False))
    curves: dict[MapKey, dict[str, list[tuple[float, float]]]] = defaultdict(dict)
    for (key, grader), points in results.curves.items():
        curves[key][grader] = points
    of_image: dict[str, list[MapKey]] = defaultdict(list)
    for key in results.maps:
        of_image[key.image].append(key)

    def shown(key: MapKey) -> ShownMap:
        named = {"method": key.method, "baseline": key.baseline, "class": key.target}
        values, grades = results.maps[key], results.grades[key]
        of_map = named | {"seed": key.seed}
        return ShownMap(of_map, "maps.npz", starts[key], values, curves[key], grades)

    for position, (name, described) in enumerate(results.images.items()):
        yield ShownImage(position, name, described["targets"], map(shown, of_image[name]))
