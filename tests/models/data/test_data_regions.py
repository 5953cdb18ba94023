"""Regions of images as uploads: boxes, polygons, runs and masks are the same pixels."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.core.errors import DataError
from models.data import files
from models.data.regions import open_regions

SIZE = (12, 16)
INSIDE = np.zeros(SIZE, dtype=bool)
INSIDE[2:6, 3:9] = True


def coco(*annotations: dict, **image) -> bytes:
    images = [{"id": 7, "file_name": "cat/1.jpg", "height": 12, "width": 16, **image}]
    return json.dumps(
        {"images": images, "annotations": [{"image_id": 7, **each} for each in annotations]}
    ).encode()


def png(values: np.ndarray, mode: str = "L") -> bytes:
    stream = io.BytesIO()
    Image.fromarray((values * 200).astype(np.uint8)).convert(mode).save(stream, "PNG")
    return stream.getvalue()


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/") + ".png", content)
    return stream.getvalue()


def runs(values: np.ndarray) -> list[int]:
    flat = np.concatenate([[False], values.T.ravel(), [not values.T.ravel()[-1]]])
    return np.diff(np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1])])).tolist()


@pytest.fixture
def write(tmp_path):
    def write(content: bytes | str) -> Path:
        path = tmp_path / "content"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    "content",
    [
        "image,left,top,right,bottom\ncat/1.jpg,3,2,9,6\n",
        "xmin;ymin;xmax;ymax;file_name;label\n2.6;1.7;9.4;6.2;cat/1.jpg;cat\n",
        "image,x,y,width,height\ncat/1.jpg,3,2,6,2\ncat/1.jpg,3,4,6,2\n",
        coco({"bbox": [3, 2, 6, 4]}),
        coco({"bbox": [0, 0, 1, 1], "segmentation": [[3, 2, 9, 2, 9, 6, 3, 6]]}),
        coco({"segmentation": {"counts": runs(INSIDE), "size": list(SIZE)}, "iscrowd": 1}),
        zipped(cat__1=png(INSIDE)),
        zipped(cat__1=png(INSIDE, "RGB")),
    ],
    ids=["corners", "halves", "two boxes", "bbox", "polygon", "runs", "mask", "colours"],
)
def test_each_format_gives_the_same_pixels(content, write):
    path = write(content)
    found = files.check(path, "regions", {})
    assert found["annotated"] == 1
    with open_regions(path) as regions:
        name = regions.name_for("cat/1.png")
        np.testing.assert_array_equal(regions.mask(name, SIZE), INSIDE)


def test_a_polygon_holds_the_pixels_whose_centres_lie_in_it(write):
    """A triangle, pixel by pixel by its three half-planes."""
    corners = [(1.0, 1.2), (14.3, 3.0), (5.0, 11.0)]
    path = write(coco({"segmentation": [[each for corner in corners for each in corner]]}))
    y, x = np.mgrid[:12, :16] + 0.5
    expected = np.ones(SIZE, dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        expected &= (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) >= 0
    with open_regions(path) as regions:
        np.testing.assert_array_equal(regions.mask("cat/1.jpg", SIZE), expected)


@pytest.mark.parametrize(
    ("picture", "found"),
    [
        ("test/cat/1.png", "cat/1.jpg"),
        ("1.jpg", None),
        ("cat/11.jpg", None),
        ("dog/2.webp", "2"),
        ("2", "2"),
    ],
)
def test_a_picture_is_found_by_the_end_of_its_path(write, picture, found):
    path = write("image,left,top,right,bottom\ncat/1.jpg,3,2,9,6\n2,1,1,2,2\n")
    with open_regions(path) as regions:
        assert regions.name_for(picture) == found


@pytest.mark.parametrize(
    ("content", "size", "message"),
    [
        ("image,left,top,right,bottom\na,3,2,17,6\n", SIZE, r"right 17.* beyond its 16 x 12"),
        (coco({"bbox": [3, 2, 6, 4]}), (24, 32), "drawn on 12 x 16 pixels, the image has 24 x 32"),
        (coco({"segmentation": [[1, 1, 30, 1, 1, 5]]}), SIZE, "polygon reaches beyond"),
        (zipped(a=png(INSIDE)), (6, 8), "a mask of 12 x 16 pixels, the image has 6 x 8"),
        (coco({"segmentation": {"counts": [3], "size": [12, 16]}}), SIZE, "runs of 3 pixels"),
        (
            coco({"segmentation": {"counts": [10**14], "size": [10**7] * 2}}),
            SIZE,
            "a mask of 10000000",
        ),
    ],
)
def test_regions_that_do_not_fit_their_image_are_refused(write, content, size, message):
    with (
        open_regions(write(content)) as regions,
        pytest.raises(DataError, match=message),
    ):
        regions.mask(next(iter(regions.by_image)), size)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,left,top\na,1,2\n", "regions need image and left, top, right, bottom"),
        ("image,left,top,right,bottom\n", "a header and no row"),
        ("image,left,top,right,bottom\na,1,2,1,4\n", "line 2: the box .* holds nothing"),
        ("image,left,top,right,bottom\na,1,x,3,4\n", "line 2, top: 'x' is no number of pixels"),
        ("image,left,top,right,bottom\na,1,nan,3,4\n", "'nan' is no number"),
        ("image,left,top,right,bottom\n,1,2,3,4\n", "line 2: the cell of the image is empty"),
        ("image,left,top,right,bottom\na.png,1,2,3,4\na.jpg,1,2,3,4\n", "in their ending alone"),
        (b'{"images": []}', "no regions as of COCO"),
        (b"[1, 2]", "no regions as of COCO"),
        (b'{"images": [], "annotations": []}', "has no annotation"),
        (coco({"segmentation": {"counts": "abc", "size": [1, 2]}}), "compressed text"),
        (
            coco({"segmentation": {"counts": [-3, 195], "size": [12, 16]}}),
            "whole numbers of pixels",
        ),
        (coco({"segmentation": {"counts": [2.5], "size": [12, 16]}}), "runs are whole"),
        (coco({"segmentation": [[1, 2, 3, 4]]}), "three corners"),
        (coco({"bbox": [1, 2, 3]}), "bbox has 3 numbers"),
        (b'{"images"', "no JSON"),
        (zipped(a=b"nothing"), "no PNG that can be read"),
        (b"", "the file is empty"),
    ],
)
def test_what_is_no_regions_is_refused_at_import(write, content, message):
    with pytest.raises(DataError, match=message):
        files.check(write(content), "regions", {})


@pytest.mark.parametrize(
    "content",
    [
        "image,left,top,right,bottom,class\na,3,2,9,6, dog\na,0,0,2,2,cat\nb,1,1,2,2,cat\n",
        coco({"bbox": [3, 2, 6, 4], "category_id": 1}, {"bbox": [0, 0, 2, 2], "category_id": 2}),
    ],
)
def test_one_category_is_taken_by_its_name(write, content):
    if isinstance(content, bytes):
        document = json.loads(content)
        document["categories"] = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
        content = json.dumps(document).encode()
    with open_regions(write(content)) as regions:
        assert regions.categories == ["cat", "dog"]
        dogs = regions.of_category("dog")
        (name,) = dogs.by_image
        np.testing.assert_array_equal(dogs.mask(name, SIZE), INSIDE)
        assert regions.mask(name, SIZE).sum() == INSIDE.sum() + 4
        with pytest.raises(DataError, match="'cow'; the file tells cat, dog"):
            regions.of_category("cow")
