"""Uploads: every format is read to the same arrays, every breach of a limit is refused by name."""

import io
import json
import stat
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models.core.errors import DataError
from models.data import archives, decode, files, stacks
from models.data.arrays import held_out

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (30, 5, 4, 3), dtype=np.uint8)
LABELS = np.arange(30) % 3
NAMES = ["ant", "bee", "cat"]


def picture(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(stream, kind, **options)
    return stream.getvalue()


def zipped(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def folder_entries(prefix="", images=IMAGES, labels=LABELS):
    return {
        f"{prefix}{NAMES[label]}/{index:03d}.png": picture(image)
        for index, (image, label) in enumerate(zip(images, labels, strict=True))
    }


def table(images=IMAGES, labels=LABELS, names=NAMES, column="label"):
    image = pa.array(
        [{"bytes": picture(pixels), "path": None} for pixels in images],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    actual = pa.table({"image": image, column: pa.array(labels)})
    if names is None:
        return actual
    note = {"info": {"features": {column: {"names": names, "_type": "ClassLabel"}}}}
    return actual.replace_schema_metadata({"huggingface": json.dumps(note)})


def parquet_bytes(**fields) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table(**fields), stream)
    return stream.getvalue()


def save_npz(path, **arrays):
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return path


def by_label(part):
    """Images in the order of label and bytes: readers may order them differently."""
    order = sorted(
        range(len(part.labels)), key=lambda i: (part.labels[i], part.images[i].tobytes())
    )
    return part.labels[order], part.images[order]


def write(kind, path):
    """The 30 images as one file without a test part."""
    if kind == "npz":
        return save_npz(path, images=IMAGES, labels=LABELS, classes=np.array(NAMES))
    if kind == "image_folder":
        return zipped(path, folder_entries("mine/"))
    path.write_bytes(parquet_bytes())
    return path


@pytest.mark.parametrize("kind", ["npz", "image_folder", "parquet"])
def test_every_format_gives_the_same_images(kind, tmp_path):
    path = write(kind, tmp_path / "content")
    actual = files.read_images(path)
    assert actual.classes == NAMES
    assert (len(actual.train.labels), len(actual.test.labels)) == (24, 6)
    assert np.bincount(actual.test.labels).tolist() == [2, 2, 2]
    both = files.Labelled(*(np.concatenate(pair) for pair in zip(*actual[:2], strict=True)))
    for got, expected in zip(by_label(both), by_label(files.Labelled(IMAGES, LABELS)), strict=True):
        np.testing.assert_array_equal(got, expected)
    counts = {"train": 24, "test": 6, "classes": 3, "height": 5, "width": 4, "channels": 3}
    actual = files.check(path, kind, {})
    assert actual.pop("contents")["sizes"] == "5 x 4 pixels"
    assert actual == counts
    other = {"npz": "parquet", "image_folder": "npz", "parquet": "image_folder"}[kind]
    with pytest.raises(DataError, match=f"format {kind}, not {other}"):
        files.check(path, other, {})


def both_parts(kind, path):
    train, test = (slice(None, 20), slice(20, None))
    if kind == "npz":
        return save_npz(
            path,
            train_images=IMAGES[train],
            train_labels=LABELS[train],
            test_images=IMAGES[test],
            test_labels=LABELS[test],
        )
    if kind == "image_folder":
        return zipped(
            path,
            folder_entries("train/", IMAGES[train], LABELS[train])
            | folder_entries("test/", IMAGES[test], LABELS[test]),
        )
    halves = {
        "data/train-0.parquet": slice(0, 9),
        "data/train-1.parquet": slice(9, 20),
        "data/test-0.parquet": test,
    }
    return zipped(
        path,
        {
            name: parquet_bytes(images=IMAGES[part], labels=LABELS[part])
            for name, part in halves.items()
        },
    )


@pytest.mark.parametrize("kind", ["npz", "image_folder", "parquet"])
def test_a_test_part_is_kept_as_it_is(kind, tmp_path):
    actual = files.read_images(both_parts(kind, tmp_path / "content"))
    for part, expected in ((actual.train, slice(None, 20)), (actual.test, slice(20, None))):
        labels, images = by_label(part)
        wanted = by_label(files.Labelled(IMAGES[expected], LABELS[expected]))
        np.testing.assert_array_equal(labels, wanted[0])
        np.testing.assert_array_equal(images, wanted[1])
    assert actual.classes == (["0", "1", "2"] if kind == "npz" else NAMES)


@given(st.lists(st.integers(0, 4), min_size=10, max_size=80), st.floats(0.1, 0.6))
def test_held_out_shares_are_those_of_the_classes(labels, share):
    labels = np.array(labels)
    count = round(share * len(labels))
    held = held_out(labels, count)
    assert held.sum() == count
    for label in np.unique(labels):
        of_class = labels == label
        assert abs((held & of_class).sum() - of_class.sum() * count / len(labels)) < 1
    np.testing.assert_array_equal(held, held_out(labels, count))


def test_photographs_keep_their_own_sizes(tmp_path):
    small, large = IMAGES[0], RNG.integers(0, 256, (9, 7), dtype=np.uint8)
    path = zipped(
        tmp_path / "content",
        {
            "trip/b.png": picture(large),
            "trip/a.jpg": picture(small, "JPEG"),
            "trip/notes.txt": b"x",
            "__MACOSX/trip/._b.png": b"x",
        },
    )
    actual = files.check(path, "image_folder", {})
    assert actual["images"] == 2
    left_out = {line["what"]: line["count"] for line in actual["contents"]["left_out"]}
    assert left_out == {"*.txt": 1, "__MACOSX": 1}
    with files.open_images(path) as opened:
        photos = opened.part("test")
        assert [photo.shape for _, photo in photos.pictures()] == [(5, 4, 3), (9, 7, 1)]
        b, a = photos.picked([1, 0])
        np.testing.assert_array_equal(b[..., 0], large)
        assert a.shape == (5, 4, 3)
    refused(path, "no class folders, so no labels")


def refused(path, match, kind=None):
    with pytest.raises(DataError, match=match):
        files.check(path, kind, {}) if kind else files.read_images(path)


# -- archives ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["/etc/a.png", "../a.png", "x/../../a.png", "C:/a.png", "x\\a.png"]
)
def test_names_that_lead_out_are_refused(name, tmp_path):
    entry = zipfile.ZipInfo("x")
    entry.filename = name
    path = tmp_path / "content"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(entry, b"x")
    refused(path, "absolute names, backslashes and")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_are_refused(kind, tmp_path):
    entry = zipfile.ZipInfo("a/link.png")
    entry.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "content", "w") as archive:
        archive.writestr(entry, b"/etc/passwd")
    refused(tmp_path / "content", r"a/link.png: links and devices")


def test_too_many_entries_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "ENTRIES", 10)
    refused(zipped(tmp_path / "content", folder_entries()), "30 entries; the limit is 10")


def test_too_many_bytes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "TOTAL_BYTES", 500)
    refused(zipped(tmp_path / "content", folder_entries()), "inflates to more than 500 bytes")


def test_bombs_are_refused_whatever_their_headers_say(tmp_path):
    """10 MiB of zeros pack 1000 to 1; the headers are made to promise 100 bytes."""
    path = zipped(tmp_path / "content", {"a/a.png": bytes(10 * 2**20), "b/b.png": b"x"})
    content = path.read_bytes()
    honest = (10 * 2**20).to_bytes(4, "little")
    assert content.count(honest) == 2  # local header and directory
    refused(path, "a/a.png: .*inflates to more than 100 times")
    path.write_bytes(content.replace(honest, (100).to_bytes(4, "little")))
    refused(path, "a/a.png")


def test_nested_archives_are_not_opened(tmp_path):
    inner = zipped(tmp_path / "inner", folder_entries()).read_bytes()
    refused(zipped(tmp_path / "content", {"more.zip": inner}), "holds no picture")


def test_encrypted_entries_are_refused(tmp_path):
    path = zipped(tmp_path / "content", {"a/a.png": b"x"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    refused(path, "encrypted")


@pytest.mark.parametrize("kind", ["npz", "image_folder", "parquet"])
def test_cut_files_are_refused(kind, tmp_path):
    path = write(kind, tmp_path / "content")
    path.write_bytes(path.read_bytes()[:-200])
    refused(path, "damaged")


@pytest.mark.parametrize("kind", ["npz", "image_folder"])
def test_flipped_bytes_are_refused(kind, tmp_path):
    path = write(kind, tmp_path / "content")
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    refused(path, ".")


@pytest.mark.parametrize(
    "content", [b"\x80\x04\x95pickled", b"", b"%PDF", b"PK\x05\x06" + bytes(18)]
)
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "content").write_bytes(content)
    refused(tmp_path / "content", "neither npz, zip, tar .uncompressed., parquet nor a picture")


# -- arrays --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"images": IMAGES}, "expected train_images"),
        ({"images": IMAGES / 64 - 2, "labels": LABELS}, "images: values from -2 to 1.98.*; give"),
        ({"images": IMAGES * 1.5, "labels": LABELS}, "images: floats to 38"),
        ({"images": IMAGES * np.nan, "labels": LABELS}, "images: values from nan to nan"),
        ({"images": IMAGES * 1j, "labels": LABELS}, "images: values of complex128"),
        ({"images": IMAGES[:, 0, 0], "labels": LABELS}, r"images: shape \(30, 3\)"),
        ({"images": IMAGES, "labels": LABELS[:9]}, r"labels: shape \(9,\) for 30 images"),
        ({"images": IMAGES, "labels": LABELS - 1}, "labels from -1 to 1"),
        ({"images": IMAGES, "labels": LABELS * 100_000}, "labels from 0 to 200000"),
        ({"images": IMAGES, "labels": LABELS * np.nan}, "labels: values of float64"),
        ({"images": IMAGES, "labels": LABELS, "classes": np.array(NAMES[:2])}, "label 2, but"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "so no images"),
        ({"images": np.zeros((2, 18, 4, 17), np.uint8), "labels": LABELS[:2]}, "17 bands"),
        (
            {"train_images": IMAGES, "train_labels": LABELS, "test_labels": LABELS,
             "test_images": IMAGES[:, :2]},
            "train and test differ in size: 5 x 4 x 3 and 2 x 4 x 3",
        ),
    ],
)  # fmt: skip
def test_wrong_arrays_are_refused_by_name(arrays, match, tmp_path):
    refused(save_npz(tmp_path / "content", **arrays), match)


def test_arrays_of_objects_are_refused(tmp_path):
    objects = np.array([{"code": 1}] * 30, dtype=object)
    refused(save_npz(tmp_path / "content", images=IMAGES, labels=objects), "labels: .*pickle")


def test_array_headers_that_promise_too_much_are_refused(tmp_path, monkeypatch):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"shape": (10**6, 100, 100), "fortran_order": False, "descr": "|u1"}
    )
    path = zipped(tmp_path / "content", {"images.npy": stream.getvalue(), "labels.npy": b""})
    refused(path, "images: decoded, the images take 10000000000 bytes")
    monkeypatch.setattr(stacks, "DECODED_BYTES", 10**11)
    short = zipped(
        tmp_path / "short",
        {
            "images.npy": stream.getvalue().replace(b"1000000, 100, 100", b"     10, 100, 100"),
            "labels.npy": b"",
        },
    )
    refused(short, "images: cut short")


def test_grey_and_fortran_arrays_are_read_right(tmp_path):
    grey = np.asfortranarray(IMAGES[..., 0])
    actual = files.read_images(
        save_npz(
            tmp_path / "content",
            train_images=grey,
            train_labels=LABELS,
            test_images=grey,
            test_labels=LABELS.astype(np.uint8),
        )
    )
    np.testing.assert_array_equal(actual.train.images[..., 0], grey)
    assert actual.test.labels.dtype == np.int64


# -- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"a/1.png": picture(IMAGES[0])[:-30], "b/2.png": b""}, "a/1.png: damaged, cut short"),
        ({"a/1.png": b"%PDF", "b/2.png": b""}, "a/1.png: damaged, cut short, or no PNG"),
        ({"a/1.png": b"", "2.png": b""}, "2.png: lies in no class folder"),
        ({"train/a/1.png": picture(IMAGES[0]), "b/2.png": b"x"},
         "b/2.png: lies beside the parts train"),
        ({"a/1.tif": picture(np.ones((4, 4), np.float32), "TIFF"), "b/2.png": b""},
         "mode F; use 8 or 16 bits"),
    ],
)  # fmt: skip
def test_wrong_pictures_are_refused_by_name(entries, match, tmp_path):
    refused(zipped(tmp_path / "content", entries), match, "image_folder")


def test_large_pictures_are_refused_by_their_header(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "PIXELS", 19)
    refused(zipped(tmp_path / "content", folder_entries()), "5 x 4 pixels; from 1 to 19")


def test_decompression_bombs_are_refused():
    header = picture(np.zeros((2, 2), np.uint8))
    at = header.index(b"IHDR") + 4
    huge = header[:at] + (10**5).to_bytes(4, "big") * 2 + header[at + 8 :]
    with pytest.raises(DataError, match=r"bomb.png"):
        decode.decode(huge, "bomb.png")


def test_animations_are_refused():
    frames = [Image.fromarray(image) for image in IMAGES[:2]]
    stream = io.BytesIO()
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="an animation"):
        decode.decode(stream.getvalue(), "a.png")


def test_images_that_do_not_fit_into_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(stacks, "DECODED_BYTES", 1000)
    refused(zipped(tmp_path / "content", folder_entries()), "1440 bytes; the limit is 1000")


# -- parquet -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"labels": LABELS - 2}, "labels from -2"),
        ({"names": NAMES[:2]}, "label 2, but there are names for 2 classes"),
        ({"labels": [None, *LABELS[1:]]}, "a label is missing"),
        ({"labels": LABELS.astype(float)}, "label column 'label' is of type double"),
        ({"images": [*IMAGES[:9], IMAGES[0][:3]], "labels": LABELS[:10] * 0}, "3 x 4 x 3"),
    ],
)
def test_wrong_tables_are_refused_by_row_or_column(fields, match, tmp_path):
    (tmp_path / "content").write_bytes(parquet_bytes(**fields))
    refused(tmp_path / "content", match)


def test_table_without_images_is_refused(tmp_path):
    pq.write_table(pa.table({"label": [1, 2]}), tmp_path / "content")
    refused(tmp_path / "content", "no image column among label")


def test_tables_that_inflate_too_much_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "RATIO_FLOOR_BYTES", 1000)
    monkeypatch.setattr(archives, "RATIO", 0)
    (tmp_path / "content").write_bytes(parquet_bytes())
    refused(tmp_path / "content", "inflates to more than 1000 bytes")


def test_table_without_class_names_numbers_them(tmp_path):
    (tmp_path / "content").write_bytes(parquet_bytes(names=None, column="fine_label"))
    assert files.read_images(tmp_path / "content").classes == ["0", "1", "2"]


def test_unknown_options_and_formats_are_refused(tmp_path):
    path = write("npz", tmp_path / "content")
    with pytest.raises(DataError, match="options"):
        files.check(path, "npz", {"cell_size_m": 1.0})
    with pytest.raises(DataError, match="use npz, image_folder"):
        files.check(path, "pickle", {})
