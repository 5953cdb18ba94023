"""Imports as people have them: nothing vanishes, nothing is guessed in silence, all is listed."""

import gzip
import io
import json
import struct
import zipfile
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import ExifTags, Image, ImageOps

from models.core.errors import DataError
from models.core.spec import ReadOptions
from models.data import files
from models.data.decode import decode

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 4, 3), dtype=np.uint8)
HOLD_OUT = {"split": "hold_out"}


def picture(kind="PNG", size=(6, 4), image=None, **options) -> bytes:
    stream = io.BytesIO()
    image = image or Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8))
    image.save(stream, kind, **options)
    return stream.getvalue()


def zipped(path, entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def folder(tmp_path, names, content=None):
    return zipped(tmp_path / "content", {name: content or picture() for name in names})


def named(*folders, count=6, ending="png"):
    return [f"{each}/{index}.{ending}" for each in folders for index in range(count)]


def counts(checked, *names):
    return [checked[name] for name in names]


def refusal(path, kind, options=None):
    with pytest.raises(DataError) as error:
        files.check(path, kind, options or {})
    return f"{error.value} {error.value.hint}"


# -- folders -------------------------------------------------------------------------------------


def test_hidden_files_are_left_out_and_listed(tmp_path):
    hidden = ["System Volume Information/a.png", "cat/~$a.png", "lost+found/a.png",
              ".DS_Store", "cat/Thumbs.db", "dog/Thumbs.db", "__MACOSX/cat/._0.png", "cat/._1.png",
              "desktop.ini", ".git/objects/a.png", "dog/.ipynb_checkpoints/0.png"]  # fmt: skip
    entries = dict.fromkeys([*named("cat", "dog"), *hidden], picture())
    path = zipped(tmp_path / "content", entries | {"cat/notes.txt": b"in text"})
    checked = files.check(path, "image_folder", {})
    assert counts(checked, "train", "test", "classes") == [10, 2, 2]
    left_out = checked["contents"]["left_out"]
    assert sum(line["count"] for line in left_out) == len(hidden) + 1
    assert ("Thumbs.db", 2) in [(line["what"], line["count"]) for line in left_out]
    assert {"what": "*.txt", "count": 1, "reason": "no picture"} in left_out
    assert checked["contents"]["taken"] == {".png": 12}


@pytest.mark.parametrize(
    ("kind", "ending", "options"),
    [("WEBP", "webp", {}), ("TIFF", "tif", {}), ("BMP", "bmp", {}), ("GIF", "gif", {}),
     ("PPM", "ppm", {}), ("JPEG", "JPG", {}), ("JPEG", "jfif", {}), ("PNG", "jpeg", {}),
     ("PNG", "", {}), ("WEBP", "image", {})],
)  # fmt: skip
def test_a_class_of_another_format_does_not_vanish(kind, ending, options, tmp_path):
    entries = {name: picture() for name in named("cat", "dog")}
    entries |= {name.rstrip("."): picture(kind, **options) for name in named("fox", ending=ending)}
    checked = files.check(zipped(tmp_path / "content", entries), "image_folder", {})
    assert counts(checked, "train", "test", "classes") == [14, 4, 3]
    assert sum(checked["contents"]["taken"].values()) == 18


def test_pictures_that_cannot_be_read_are_counted_by_ending(tmp_path):
    path = folder(tmp_path, [*named("cat"), *named("fox", ending="heic"), "cat/a.svg"])
    message = refusal(path, "image_folder")
    assert "7 pictures cannot be read: 6 .heic, 1 .svg" in message
    assert "convert them to PNG" in message


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"train": 30, "validation": 12, "test": 9}, {"train": 30, "validation": 12, "test": 9}),
        ({"Train": 30, "val": 12, "Test": 9}, {"train": 30, "validation": 12, "test": 9}),
        ({"data/Training": 30, "data/Testing": 9}, {"train": 30, "test": 9}),
        ({"train": 30, "val": 12}, {"train": 30, "test": 12}),
        ({"seg_train/seg_train": 30, "seg_test/seg_test": 9}, {"train": 30, "test": 9}),
        ({"default/train": 30, "default/test": 9}, {"train": 30, "test": 9}),
        ({"train": 30}, {"train": 24, "test": 6}),
        ({"mine/set": 30}, {"train": 24, "test": 6}),
    ],
)
def test_parts_by_the_names_of_folders(parts, expected, tmp_path):
    names = [
        f"{part}/{'abc'[index % 3]}/{index}.png" for part, n in parts.items() for index in range(n)
    ]
    checked = files.check(folder(tmp_path, names), "image_folder", {})
    assert {part: checked[part] for part in expected} == expected
    assert checked.get("validation") == expected.get("validation")
    assert checked["classes"] == 3
    for part, count in expected.items():
        assert f"{part} {count}" in checked["contents"]["split"] or "used for it" in str(checked)


@pytest.mark.parametrize(
    ("head", "ending"),
    [
        (b"\0\0\0\x18ftypheic", ".heic"),
        (b"\0\0\0\x18ftypavif", ".avif"),
        (b"8BPS\0\1", ".psd"),
        (b"\xff\x0a", ".jxl"),
    ],
)
def test_a_class_of_unread_pictures_without_their_ending_does_not_vanish(head, ending, tmp_path):
    entries = dict.fromkeys(named("cat", "dog"), picture())
    entries |= {f"fox/{index}{name}": head + bytes(40) for index, name in enumerate(("", ".img"))}
    message = refusal(zipped(tmp_path / "content", entries), "image_folder")
    assert f"2 pictures cannot be read: 2 {ending}" in message


def test_a_class_is_one_however_its_letters_are_composed(tmp_path):
    names = ["train/caf\u00e9", "train/tea", "test/cafe\u0301", "test/tea"]
    checked = files.check(folder(tmp_path, named(*names)), "image_folder", {})
    assert checked["classes"] == 2
    assert checked["contents"]["notes"] == []
    (tmp_path / "content").write_bytes(table(label=pa.array(["caf\u00e9", "cafe\u0301"] * 10)))
    assert files.check(tmp_path / "content", "parquet", {})["classes"] == 1


@pytest.mark.parametrize("other", ["cat", "Cat ", "CAT"])
def test_a_class_spelled_otherwise_in_the_test_part_is_refused(other, tmp_path):
    names = ["train/Cat", "train/Dog", f"test/{other}", "test/Dog"]
    message = refusal(folder(tmp_path, named(*names)), "image_folder")
    assert f"the class {other!r} has no training image, but 'Cat' has" in message
    both = [f"{part}/{name}" for part in ("train", "test") for name in ("a", "A")]
    assert files.check(folder(tmp_path, named(*both)), "image_folder", {})["classes"] == 2


def test_a_class_called_train_is_no_part_without_asking(tmp_path):
    path = folder(tmp_path, named("train", "bus", "car", count=5))
    assert "hold_out" in refusal(path, "image_folder")
    checked = files.check(path, "image_folder", HOLD_OUT)
    assert counts(checked, "train", "test", "classes") == [12, 3, 3]
    path = folder(tmp_path, named("train_station", "airport", count=5))
    assert files.check(path, "image_folder", {})["classes"] == 2
    path = folder(tmp_path, named("train/a", "train/b", "test/a", "test/b", count=5))
    assert counts(files.check(path, "image_folder", HOLD_OUT), "train", "test") == [16, 4]


def test_the_class_is_the_first_folder(tmp_path):
    path = folder(tmp_path, named("set/cat/a", "set/cat/b", "set/dog/a", "set/dog", count=3))
    checked = files.check(path, "image_folder", {})
    assert counts(checked, "train", "test", "classes") == [10, 2, 2]
    assert "9 pictures lie in folders below" in checked["contents"]["label"]
    assert files.read_images(path).classes == ["cat", "dog"]


def test_sizes_may_differ_where_all_are_resized(tmp_path):
    entries = {f"{'ab'[i % 2]}/{i}.png": picture(size=(16 + i, 20)) for i in range(10)}
    path = zipped(tmp_path / "content", entries)
    checked = files.check(path, "image_folder", {})
    assert checked["sizes"] == 10
    assert not {"height", "width"} & checked.keys()
    assert "from 16 x 20 to 25 x 20 pixels" in checked["contents"]["sizes"]
    with pytest.raises(DataError) as error:
        files.read_images(path)
    assert "images.image_size" in str(error.value.hint)
    cropped = files.read_images(path, fit=lambda image: image[:8, :8])
    assert cropped.train.images.shape == (8, 8, 8, 3)


@pytest.mark.parametrize("grey_first", [True, False])
def test_grey_pictures_among_colours(grey_first, tmp_path):
    grey, colour = Image.fromarray(RGB).convert("L"), Image.fromarray(RGB)
    order = [grey, colour] if grey_first else [colour, grey]
    entries = {f"{'ab'[i % 2]}/{i}.png": picture(image=order[i > 4]) for i in range(10)}
    path = zipped(tmp_path / "content", entries)
    assert files.check(path, "image_folder", {})["channels"] == 3
    images = files.read_images(path).train.images
    assert images.shape == (8, 6, 4, 3)
    np.testing.assert_array_equal(images[0 if grey_first else -1][..., 2], np.asarray(grey))


def test_one_picture_is_a_set_of_one_photograph(tmp_path):
    (tmp_path / "content").write_bytes(picture("JPEG"))
    checked = files.check(tmp_path / "content", "image_folder", {})
    assert checked["images"] == 1
    with files.open_images(tmp_path / "content") as opened:
        assert opened.part("test").picked([0])[0].shape == (6, 4, 3)


# -- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright(kind, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    noted = Counter()
    actual = decode(picture(kind, image=Image.fromarray(RGB), exif=exif, **options), "x", noted)
    turns = {1: None, 2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
             6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}  # fmt: skip
    turn = turns[orientation]
    upright = Image.fromarray(RGB)
    upright = upright.transpose(Image.Transpose[turn]) if turn else upright
    np.testing.assert_array_equal(actual, np.asarray(upright))
    assert sum(noted.values()) == (turn is not None)


def test_a_jpeg_upright_and_turned_is_one_picture(tmp_path):
    block = np.kron(RNG.integers(0, 256, (4, 2, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
    upright = Image.fromarray(block)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    assert ImageOps.exif_transpose(upright).size == (32, 64)
    images = [
        decode(picture("JPEG", image=image, quality=100, subsampling=0, **extra), "x").astype(int)
        for image, extra in ((upright, {}), (turned, {"exif": exif}))
    ]
    assert np.abs(images[0] - images[1]).max() <= 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_become_8(kind):
    values = np.array([[0, 257 * 3], [257 * 200 + 100, 65535]], np.uint16)
    noted = Counter()
    actual = decode(picture(kind, image=Image.fromarray(values)), "x", noted)
    np.testing.assert_array_equal(actual[..., 0], [[0, 3], [200, 255]])
    assert "divided by 257" in next(iter(noted))
    decode(picture(kind, image=Image.fromarray(values // 16)), "x", noted)
    assert any("nearly black" in note for note in noted)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_that_counts_from_white_is_no_negative(bits):
    kept = np.full((4, 4), 200 * (257 if bits == 16 else 1), np.uint16 if bits == 16 else np.uint8)
    stream = io.BytesIO()
    Image.fromarray(kept).save(stream, "TIFF")
    content = bytearray(stream.getvalue())
    tag = content.index(struct.pack("<HHI", 262, 3, 1))
    content[tag + 8] = 0  # photometric interpretation: white is zero
    assert (decode(bytes(content), "x") == 55).all()


def test_transparent_pixels_lie_over_white():
    grey = Image.fromarray(RGB).convert("L")
    opaque = decode(picture(image=grey.convert("LA")), "x")
    np.testing.assert_array_equal(opaque[..., 0], np.asarray(grey))
    for image, options in [
        (Image.fromarray(np.dstack([RGB, np.full(RGB.shape[:2], 0, np.uint8)])), {}),
        (Image.fromarray(RGB).quantize(1), {"transparency": 0}),
        (Image.new("L", (4, 6), 9), {"transparency": 9}),
    ]:
        noted = Counter()
        assert (decode(picture(image=image, **options), "x", noted) == 255).all()
        assert sum(noted.values()) == 1
    half = Image.new("RGBA", (4, 6), (100, 0, 255, 51))
    assert decode(picture(image=half), "x")[0, 0].tolist() == [224, 204, 255]


def test_other_modes_and_the_first_of_several_in_a_jpeg():
    image = Image.fromarray(RGB)
    for kind in ("TIFF", "JPEG"):
        assert decode(picture(kind, image=image.convert("CMYK")), "x").shape == (6, 4, 3)
    np.testing.assert_array_equal(decode(picture("TIFF", image=image.convert("CMYK")), "x"), RGB)
    assert decode(picture(image=image.convert("1")), "x").shape == (6, 4, 1)
    several = picture("MPO", image=image, save_all=True, append_images=[image])
    assert decode(several, "x").shape == (6, 4, 3)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP"])
def test_several_pictures_in_one_file_are_refused(kind):
    image = Image.fromarray(RGB)
    several = picture(
        kind,
        image=image,
        save_all=True,
        append_images=[image.transpose(Image.Transpose.ROTATE_180)],
    )
    with pytest.raises(DataError, match="2 pictures in one file"):
        decode(several, "x")


# -- parquet -------------------------------------------------------------------------------------


def table(count=20, note=None, **columns) -> bytes:
    image = pa.array(
        [{"bytes": picture(), "path": None} for _ in range(count)],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    made = pa.table({"image": image, **columns})
    if note is not None:
        made = made.replace_schema_metadata({"huggingface": json.dumps(note)})
    stream = io.BytesIO()
    pq.write_table(made, stream)
    return stream.getvalue()


def labels(count=20):
    return pa.array(np.arange(count) % 3)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["data/train-00000-of-00001", "data/validation-00000-of-00001", "data/test-00000-of-1"],
            {"train": 30, "validation": 12, "test": 9},
        ),
        (["default/train/0000", "default/val/0000", "default/test/0000"],
         {"train": 30, "validation": 12, "test": 9}),
        (["cifar10-train", "cifar10-dev", "cifar10-test"],
         {"train": 30, "validation": 12, "test": 9}),
        (["a", "b", "c"], {"train": 41, "test": 10}),
        (["train/0", "train/1", "test/0"], {"train": 42, "test": 9}),
    ],
)  # fmt: skip
def test_parts_by_the_names_of_tables(names, expected, tmp_path):
    entries = {
        f"{name}.parquet": table(count, label=labels(count))
        for name, count in zip(names, (30, 12, 9), strict=True)
    }
    path = zipped(tmp_path / "content", entries | {"README.md": b"#", ".gitattributes": b""})
    checked = files.check(path, "parquet", {})
    parts = ("train", "validation", "test")
    assert {part: checked[part] for part in parts if part in checked} == expected
    assert counts(files.check(path, "parquet", HOLD_OUT), "train", "test") == [41, 10]
    assert {line["what"] for line in checked["contents"]["left_out"]} == {
        "README.md",
        ".gitattributes",
    }


def test_configurations_are_not_mixed(tmp_path):
    names = ("coarse/train/0.parquet", "fine/train/0.parquet")
    path = zipped(tmp_path / "content", {name: table(label=labels()) for name in names})
    assert "several configurations of a set: coarse, fine" in refusal(path, "parquet")


@pytest.mark.parametrize(
    ("column", "classes"),
    [
        (pa.array(["dog", "cat"] * 10), ["cat", "dog"]),
        (pa.array(["dog", "cat"] * 10).dictionary_encode(), ["cat", "dog"]),
        (pa.array([True, False] * 10), ["False", "True"]),
        (pa.array([2, 0] * 10, pa.uint8()), ["0", "1", "2"]),
        (pa.array(["dog", "cat"] * 10, pa.large_string()), ["cat", "dog"]),
    ],
)
def test_types_of_labels(column, classes, tmp_path):
    (tmp_path / "content").write_bytes(table(label=column))
    arrays = files.read_images(tmp_path / "content")
    assert arrays.classes == classes
    words = [str(word) for word in column.to_pylist()]
    actual = np.concatenate([arrays.train.labels, arrays.test.labels])
    assert Counter(classes[label] for label in actual) == Counter(words)


def test_a_label_column_is_chosen_by_name_or_declaration_never_by_type(tmp_path):
    path = tmp_path / "content"
    path.write_bytes(table(width=labels(), caption=pa.array(["x", "y"] * 10)))
    message = refusal(path, "parquet")
    assert "no label column among image, width, caption" in message
    assert "--label NAME" in message
    checked = files.check(path, "parquet", {"label": "caption"})
    assert checked["classes"] == 2
    assert "'caption'" in checked["contents"]["label"]
    assert files.read_images(path, ReadOptions(label="caption")).classes == ["x", "y"]
    assert "the columns are image, width, caption" in refusal(path, "parquet", {"label": "kind"})
    note = {"info": {"features": {"width": {"_type": "Value"}, "breed": {"names": ["p", "q"]}}}}
    path.write_bytes(table(note=note, width=labels(), breed=pa.array([0, 1] * 10)))
    assert files.check(path, "parquet", {})["classes"] == 2


def test_of_several_columns_of_images_the_one_called_so_is_taken(tmp_path):
    path, images = tmp_path / "content", pq.read_table(io.BytesIO(table())).column("image")
    for names, left in ((("mask", "image"), "column mask"), (("image", "mask"), "column mask")):
        pq.write_table(pa.table({**dict.fromkeys(names, images), "label": labels()}), path)
        left_out = files.check(path, "parquet", {})["contents"]["left_out"]
        assert [line["what"] for line in left_out] == [left]
    pq.write_table(pa.table({"left": images, "right": images, "label": labels()}), path)
    assert "several columns hold images: left, right" in refusal(path, "parquet")


def test_an_empty_word_is_no_class(tmp_path):
    (tmp_path / "content").write_bytes(table(label=pa.array(["cat", " "] * 10)))
    assert "10 of 20 labels are empty texts" in refusal(tmp_path / "content", "parquet")


def test_words_of_all_parts_are_one_list_of_classes(tmp_path):
    entries = {
        "train.parquet": table(label=pa.array(["b", "c"] * 10)),
        "test.parquet": table(4, label=pa.array(["a", "b", "c", "c"])),
    }
    path = zipped(tmp_path / "content", entries)
    assert files.read_images(path).test.labels.tolist() == [0, 1, 2, 2]
    notes = files.check(path, "parquet", {})["contents"]["notes"]
    assert "no training image is of class a" in notes


def test_the_answer_is_bounded_whatever_names_a_file_has(tmp_path):
    """It is one line of the child's event pipe, which takes 65,536 bytes."""
    captions = pa.array([f"{index}" + "x" * 10_000 for index in range(20)])
    columns = {f"{index}" + "y" * 300: labels() for index in range(90)}
    (tmp_path / "content").write_bytes(table(label=captions, **columns))
    checked = files.check(tmp_path / "content", "parquet", {})
    assert len(json.dumps(checked)) < 2**15
    left_out = checked["contents"]["left_out"]
    assert sum(line["count"] for line in left_out) == 90
    assert left_out[-1]["what"] == "others"


# -- arrays --------------------------------------------------------------------------------------


def save_npz(tmp_path, **arrays):
    with (tmp_path / "content").open("wb") as file:
        np.savez(file, **arrays)
    return tmp_path / "content"


@pytest.mark.parametrize(
    "shape", [(3, 8, 8), (3, 16, 16), (1, 28, 28), (3, 32, 32), (12, 64, 64), (4, 9, 9)]
)
def test_channels_first_are_recognised(shape, tmp_path):
    images = RNG.integers(0, 256, (20, *shape), dtype=np.uint8)
    path = save_npz(tmp_path, images=images, labels=np.arange(20) % 2)
    checked = files.check(path, "npz", {})
    assert counts(checked, "channels", "height", "width") == list(shape)
    assert "[n, c, h, w]" in checked["contents"]["notes"][0]
    with files.open_images(path) as opened:
        pictures = opened.part("train").picked([0])
    np.testing.assert_array_equal(pictures[0], np.moveaxis(images[0], 0, 2))


@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 8, 1), (5, 4, 3), (4, 4, 3), (28, 28, 12)])
def test_channels_last_stay(shape, tmp_path):
    images = RNG.integers(0, 256, (20, *shape), dtype=np.uint8)
    path = save_npz(tmp_path, images=images, labels=np.arange(20) % 2)
    assert counts(files.check(path, "npz", {}), "height", "width", "channels") == list(shape)


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 3, 3), (32, 32, 3, 20), (784,)])
def test_ambiguous_layouts_are_refused_by_name(shape, tmp_path):
    images = np.ones((20, *shape), dtype=np.uint8)
    message = refusal(save_npz(tmp_path, images=images, labels=np.arange(20) % 2), "npz")
    assert message.startswith("images: shape")
    assert "[n, h, w, c]" in message


@pytest.mark.parametrize(
    ("scaled", "note"),
    [
        (lambda x: (x / 255).astype(np.float32), "multiplied by 255"),
        (lambda x: x / 255, "multiplied by 255"),
        (lambda x: x.astype(np.int64), "rounded"),
        (lambda x: x.astype(np.float64), "rounded"),
        (lambda x: x.astype(np.uint16) * 257, "divided by 257"),
    ],
)
def test_scales_are_recognised_and_noted(scaled, note, tmp_path):
    images = RNG.integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)
    path = save_npz(tmp_path, images=scaled(images), labels=np.arange(20) % 2)
    assert note in " ".join(files.check(path, "npz", {})["contents"]["notes"])
    arrays = files.read_images(path)
    actual = np.concatenate([arrays.train.images, arrays.test.images])
    assert sorted(image.tobytes() for image in actual) == sorted(
        image.tobytes() for image in images
    )


def test_the_scale_is_that_of_all_parts(tmp_path):
    """A dark test part of floats up to 1 belongs to a training part up to 255."""
    train, test = np.full((4, 5, 5), 255.0), np.ones((2, 5, 5))
    path = save_npz(
        tmp_path, x_train=train, y_train=np.arange(4) % 2, x_test=test, y_test=np.arange(2)
    )
    assert files.read_images(path).test.images.max() == 1


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (np.full((4, 5, 5), 255, np.uint8), np.full((2, 5, 5), 0.5)),
        (np.full((4, 5, 5), 255.0), np.full((2, 5, 5), 0.5)),
        (np.full((4, 5, 5), 255, np.uint8), np.ones((2, 5, 5), bool)),
        (np.full((4, 5, 5), 60_000, np.uint16), np.full((2, 5, 5), 255, np.uint8)),
    ],
)
def test_parts_of_two_scales_are_refused(train, test, tmp_path):
    """The lesser one would come out black."""
    for x, other in ((train, test), (test, train)):
        y_train, y_test = np.arange(len(x)) % 2, np.arange(len(other)) % 2
        path = save_npz(tmp_path, x_train=x, y_train=y_train, x_test=other, y_test=y_test)
        assert "bring all parts to one scale" in refusal(path, "npz")


def test_halves_up_to_one_are_compared_without_overflow(tmp_path):
    images = RNG.random((20, 6, 5)).astype(np.float16)
    path = save_npz(tmp_path, images=images, labels=np.arange(20) % 2)
    assert "multiplied by 255" in files.check(path, "npz", {})["contents"]["notes"][0]


def test_names_of_keras_and_medmnist(tmp_path):
    grey = RNG.integers(0, 256, (30, 6, 6), dtype=np.uint8)
    column = (np.arange(30) % 3)[:, None]
    path = save_npz(
        tmp_path,
        train_images=grey, train_labels=column, val_images=grey[:12], val_labels=column[:12],
        test_images=grey[:9], test_labels=column[:9], extra=np.arange(3),
    )  # fmt: skip
    checked = files.check(path, "npz", {})
    assert counts(checked, "train", "validation", "test", "classes") == [30, 12, 9, 3]
    assert checked["contents"]["left_out"][0]["what"] == "extra"
    words = np.array(["b", "a"] * 15)
    arrays = files.read_images(save_npz(tmp_path, images=grey, labels=words))
    assert arrays.classes == ["a", "b"]
    message = refusal(save_npz(tmp_path, images=grey, labels=np.eye(3)[column[:, 0]]), "npz")
    assert "labels" in message


# -- IDX -----------------------------------------------------------------------------------------


def idx(values: np.ndarray) -> bytes:
    shape = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return b"\0\0\x08" + bytes([values.ndim]) + shape + values.astype(np.uint8).tobytes()


@pytest.mark.parametrize("pattern", ["{}-{}-idx{}-ubyte.gz", "{}-{}.idx{}-ubyte"])
def test_files_of_mnist(pattern, tmp_path):
    grey = RNG.integers(0, 256, (30, 6, 5), dtype=np.uint8)
    pack = gzip.compress if pattern.endswith("gz") else bytes
    entries = {}
    for part, count in (("train", 30), ("t10k", 9)):
        entries[pattern.format(part, "images", 3)] = pack(idx(grey[:count]))
        entries[pattern.format(part, "labels", 1)] = pack(idx(np.arange(count) % 3))
    path = zipped(tmp_path / "content", entries)
    checked = files.check(path, "idx", {})
    names = ("train", "test", "classes", "height", "width", "channels")
    assert counts(checked, *names) == [30, 9, 3, 6, 5, 1]
    np.testing.assert_array_equal(files.read_images(path).train.images[..., 0], grey)
    path = zipped(path, entries | {"train-images-idx3-ubyte": idx(grey)})
    assert files.check(path, "idx", {})["train"] == 30
    del entries[pattern.format("t10k", "labels", 1)]
    assert "one file of images and one of labels" in refusal(zipped(path, entries), "idx")


def test_a_packed_idx_file_inflates_no_further_than_its_header_says(tmp_path):
    bomb = gzip.compress(idx(np.zeros((2, 4, 4))) + bytes(10**8))
    entries = {"train-images-idx3-ubyte.gz": bomb, "train-labels-idx1-ubyte.gz": bomb}
    assert "more bytes for the shape" in refusal(zipped(tmp_path / "content", entries), "idx")
