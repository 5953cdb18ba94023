"""Regions of images: boxes and masks by the name of the image. Torch-free.

Read are JSON as of COCO (``images``, ``annotations``), CSV with a box a row, and a zip of masks, a
PNG for each image, in which what is not black belongs to the region.
"""

import io
import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool
from PIL import Image

from models.core.errors import DataError
from models.core.json_text import parse_json
from models.data import columns
from models.data.archives import Archive
from models.data.contents import hidden, notes_alone
from models.data.tars import open_packed

MOST_BYTES = 256 * 2**20  # of a JSON, which is parsed as a whole
ZIP_MAGIC = b"PK\x03\x04"
NAMES = ("image", "file_name", "filename")
CATEGORIES = ("category", "class", "label")
CORNERS = (("left", "top", "right", "bottom"), ("xmin", "ymin", "xmax", "ymax"))
EXTENT = ("x", "y", "width", "height")
Size = tuple[int, int]  # height and width


class RegionBox(NamedTuple):
    """A rectangle in pixels from the upper left corner; the right and lower edge lie outside."""

    left: float
    top: float
    right: float
    bottom: float
    category: str = ""


class RegionMask(NamedTuple):
    """A region of any form: polygons, runs of pixels, or a picture in the archive.

    Attributes:
        polygons: x and y of the corners in turn, each.
        runs: lengths of runs, column by column, that lie outside and inside in turn.
        size: height and width of what the runs cover.
        entry: name of the picture.
        category: of what it shows, where the file tells it.
    """

    polygons: tuple[tuple[float, ...], ...] = ()
    runs: tuple[int, ...] = ()
    size: Size = (0, 0)
    entry: str = ""
    category: str = ""


class ImageRegions:
    """The regions of a file.

    Args:
        by_image: regions by the name of the image, as the file writes it.
        sizes: height and width of images, where the file tells them.
        archive: holds the pictures of masks.

    Raises:
        DataError: if two names differ in their ending alone.
    """

    def __init__(
        self,
        by_image: Mapping[str, list[RegionBox | RegionMask]],
        sizes: Mapping[str, Size] | None = None,
        archive: Archive | None = None,
    ) -> None:
        self.by_image, self._sizes, self.archive = by_image, sizes or {}, archive
        self._by_stem: dict[str, str] = {}
        for name in by_image:
            stem = stem_of(name)
            if stem in self._by_stem:
                raise DataError(
                    f"{self._by_stem[stem]!r} and {name!r} differ in their ending alone"
                )
            self._by_stem[stem] = name

    @property
    def categories(self) -> list[str]:
        """Names of what the regions show, as far as the file tells them."""
        named = {each.category for regions in self.by_image.values() for each in regions}
        return sorted(named - {""})

    def of_category(self, name: str) -> "ImageRegions":
        """The regions of one category; images without one are left out.

        Raises:
            DataError: if there is no such category.
        """
        chosen = {
            image: kept
            for image, regions in self.by_image.items()
            if (kept := [each for each in regions if each.category == name])
        }
        if not chosen:
            known = ", ".join(self.categories[:20]) or "none"
            raise DataError(f"no region is of category {name!r}; the file tells {known}")
        return ImageRegions(chosen, self._sizes, self.archive)

    def name_for(self, picture: str) -> str | None:
        """The name here of a picture: its own, or the end of its path; the ending does not matter.

        Args:
            picture: its path in the dataset.
        """
        parts = PurePosixPath(stem_of(picture)).parts
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((self._by_stem[end] for end in ends if end in self._by_stem), None)

    def mask(self, name: str, size: Size) -> Bool[np.ndarray, "h w"]:
        """All pixels of an image that belong to any of its regions.

        Args:
            name: of the image here.
            size: height and width of the image.

        Raises:
            DataError: if a region does not fit into the image.
        """
        drawn_on = self._sizes.get(name, size)
        if drawn_on != size:
            raise DataError(
                f"regions of {name}: drawn on {drawn_on[0]} x {drawn_on[1]} pixels, the image has "
                f"{size[0]} x {size[1]}",
                hint="use the images that were annotated, or scale the regions",
            )
        inside = np.zeros(size, dtype=bool)
        for region in self.by_image[name]:
            if isinstance(region, RegionBox):
                _fill(inside, region, name)
            else:
                inside |= self._drawn(region, name, size)
        return inside

    def _drawn(self, mask: RegionMask, name: str, size: Size) -> Bool[np.ndarray, "h w"]:
        if mask.entry:
            values = _picture(self.archive, mask.entry)
            _check_size(values.shape, size, name)
            return values
        if mask.runs:
            _check_size(mask.size, size, name)  # before any pixel is made
            return _from_runs(mask, name)
        return _from_polygons(mask, name, size)


def _check_size(drawn: tuple[int, ...], size: Size, name: str) -> None:
    if drawn != size:
        raise DataError(
            f"regions of {name}: a mask of {drawn[0]} x {drawn[1]} pixels, the image has "
            f"{size[0]} x {size[1]}",
            hint="use masks of the size of their images",
        )


def stem_of(name: str) -> str:
    """A name without its ending."""
    return str(PurePosixPath(name).with_suffix(""))


def _fill(inside: Bool[np.ndarray, "h w"], box: RegionBox, name: str) -> None:
    """Mark the pixels whose centres lie in a box."""
    height, width = inside.shape
    if box.left < 0 or box.top < 0 or box.right > width or box.bottom > height:
        raise DataError(
            f"regions of {name}: the box {_in_words(box)} reaches beyond its {width} x {height} "
            "pixels (width x height)",
            hint="boxes count pixels of the stored image, from its upper left corner",
        )
    left, top, right, bottom = (math.ceil(edge - 0.5) for edge in box[:4])
    inside[top:bottom, left:right] = True


def _in_words(box: RegionBox) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in zip(CORNERS[0], box[:4], strict=True))


def _from_runs(mask: RegionMask, name: str) -> Bool[np.ndarray, "h w"]:
    height, width = mask.size
    if sum(mask.runs) != height * width:
        raise DataError(
            f"regions of {name}: runs of {sum(mask.runs)} pixels for a size of {height} x {width}"
        )
    values = np.repeat(np.arange(len(mask.runs)) % 2 == 1, mask.runs)
    return values.reshape(width, height).T


def _from_polygons(mask: RegionMask, name: str, size: Size) -> Bool[np.ndarray, "h w"]:
    """Pixels whose centres lie in any polygon; a centre lies inside by the even-odd rule."""
    y, x = np.arange(size[0])[:, None] + 0.5, np.arange(size[1])[None] + 0.5
    together = np.zeros(size, dtype=bool)
    for corners in mask.polygons:
        across, down = np.array(corners[::2]), np.array(corners[1::2])
        if min(corners) < 0 or across.max() > size[1] or down.max() > size[0]:
            raise DataError(
                f"regions of {name}: a polygon reaches beyond its {size[1]} x {size[0]} pixels "
                "(width x height)",
                hint="polygons count pixels of the stored image, from its upper left corner",
            )
        inside = np.zeros(size, dtype=bool)
        ends = zip(across, down, np.roll(across, -1), np.roll(down, -1), strict=True)
        for x0, y0, x1, y1 in ends:
            if y0 != y1:
                rows = (y >= min(y0, y1)) & (y < max(y0, y1))
                inside ^= rows & (x >= x0 + (y - y0) * (x1 - x0) / (y1 - y0))
        together |= inside
    return together


def _picture(archive: Archive | None, entry: str) -> Bool[np.ndarray, "h w"]:
    content = b"" if archive is None else archive.read(entry)
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as opened:
            return np.asarray(opened.convert("RGB")).max(2) > 0
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{entry}: no PNG that can be read: {error}") from error


def check(path: Path) -> dict[str, Any]:
    """Validate regions by reading all of them.

    Returns:
        ``regions``, ``annotated`` images and ``contents`` with ``notes``.

    Raises:
        DataError: naming what is wrong and where.
    """
    with open_regions(path) as regions:
        count = sum(map(len, regions.by_image.values()))
        names = list(regions.by_image)
        for name in names:
            for region in regions.by_image[name]:
                if isinstance(region, RegionMask) and region.entry:
                    _picture(regions.archive, region.entry)
        notes = [f"{count} regions of {len(names)} images, such as {names[0]}"]
        return {"regions": count, "annotated": len(names), "contents": notes_alone(notes)}


@contextmanager
def open_regions(path: Path) -> Generator[ImageRegions]:
    """The regions of an uploaded file; its first bytes tell which format it is.

    Raises:
        DataError: naming what is wrong and where.
    """
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(ZIP_MAGIC):
        with open_packed(path) as archive:
            yield _from_archive(archive)
    elif head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
        yield _from_coco(path)
    else:
        yield _from_table(path)


def _from_archive(archive: Archive) -> ImageRegions:
    names = [name for name in archive.names if not hidden(name)]
    if not names:
        raise DataError("the archive holds no mask; give a PNG for each image, of its name")
    if others := [name for name in names if not name.lower().endswith(".png")]:
        raise DataError(f"{others[0]} is no PNG; a zip of masks holds a PNG for each image")
    return ImageRegions({name: [RegionMask(entry=name)] for name in names}, archive=archive)


def _from_table(path: Path) -> ImageRegions:
    table = columns.read(path)
    header = [name.strip().lower() for name in table.header]
    name, kind = (
        next((header.index(each) for each in known if each in header), None)
        for known in (NAMES, CATEGORIES)
    )
    sides = next((each for each in (*CORNERS, EXTENT) if set(each) <= set(header)), None)
    if name is None or sides is None:
        raise DataError(
            f"the columns are {', '.join(header)[:120]}; regions need image and left, top, right, "
            "bottom, or xmin, ymin, xmax, ymax, or x, y, width, height, in pixels"
        )
    by_image: dict[str, list[RegionBox | RegionMask]] = {}
    for line, cells in table.rows:
        if not cells[name]:
            raise DataError(f"line {line}: the cell of the image is empty")
        numbers = [_number(cells[header.index(side)], f"line {line}, {side}") for side in sides]
        category = "" if kind is None else cells[kind].strip()
        box = _box(numbers, sides == EXTENT, f"line {line}")._replace(category=category)
        by_image.setdefault(cells[name], []).append(box)
    if not by_image:
        raise DataError("the file has a header and no row")
    return ImageRegions(by_image)


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise DataError(f"{where}: {str(value)[:40]!r} is no number of pixels")
    return number


def _box(numbers: list[float], has_extent: bool, where: str) -> RegionBox:
    left, top, third, fourth = numbers
    right, bottom = (left + third, top + fourth) if has_extent else (third, fourth)
    box = RegionBox(left, top, right, bottom)
    if box.left >= box.right or box.top >= box.bottom:
        raise DataError(f"{where}: the box {_in_words(box)} holds nothing")
    return box


def _from_coco(path: Path) -> ImageRegions:
    if path.stat().st_size > MOST_BYTES:
        raise DataError(f"JSON of more than {MOST_BYTES // 2**20} MiB; give the regions as CSV")
    document = parse_json(path.read_bytes(), "the file")
    try:
        images = {image["id"]: image for image in document["images"]}
        sizes = {
            str(image["file_name"]): (int(image["height"]), int(image["width"]))
            for image in images.values()
            if "height" in image and "width" in image
        }
        categories = {each["id"]: str(each["name"]) for each in document.get("categories", [])}
        by_image: dict[str, list[RegionBox | RegionMask]] = {}
        for number, each in enumerate(document["annotations"]):
            name = str(images[each["image_id"]]["file_name"])
            category = categories.get(each.get("category_id"), "")
            region = _annotated(each, f"annotation {number}")._replace(category=category)
            by_image.setdefault(name, []).append(region)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"no regions as of COCO: {type(error).__name__} {str(error)[:80]}",
            hint='give {"images": [{"id", "file_name", "height", "width"}], "annotations": '
            '[{"image_id", "bbox" or "segmentation"}]}',
        ) from error
    if not by_image:
        raise DataError("the file has no annotation")
    return ImageRegions(by_image, sizes)


def _annotated(annotation: dict[str, Any], where: str) -> RegionBox | RegionMask:
    """The mask of an annotation, or its box where it has none."""
    drawn = annotation.get("segmentation")
    if isinstance(drawn, dict):
        if not isinstance(drawn["counts"], list):
            raise DataError(
                f"{where}: runs of pixels as compressed text are not read",
                hint="write counts as a list of numbers, or polygons",
            )
        height, width = drawn["size"]
        runs = tuple(_number(each, where) for each in drawn["counts"])
        if any(run < 0 or run % 1 for run in runs):
            raise DataError(f"{where}: runs are whole numbers of pixels from 0")
        return RegionMask(runs=tuple(map(int, runs)), size=(int(height), int(width)))
    if drawn:
        polygons = tuple(tuple(_number(c, where) for c in corners) for corners in drawn)
        if any(len(corners) < 6 or len(corners) % 2 for corners in polygons):
            raise DataError(f"{where}: a polygon needs x and y of three corners or more")
        return RegionMask(polygons=polygons)
    numbers = [_number(each, where) for each in annotation["bbox"]]
    if len(numbers) != 4:
        raise DataError(f"{where}: bbox has {len(numbers)} numbers; give x, y, width, height")
    return _box(numbers, has_extent=True, where=where)
