"""Images decoded as they are needed are those that lie in memory; what is damaged is refused."""

import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from models.core.errors import DataError, SpecError
from models.data import images, loading, picture_index
from models.data.spec import Augment, ImageOptions
from tests.models.data.pictures import KINDS, encoded, learnable, packed, placed

AUGMENT = Augment(crop_padding=2, flip=True)


def mixed(count=24):
    """JPEGs of several sizes, some grey, one turned."""
    numbers = np.random.default_rng(0)
    files = []
    for k in range(count):
        shape = (20 + 3 * (k % 5), 40 - k, 1 if k % 7 == 3 else 3)
        smooth = Image.fromarray(numbers.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        picture = smooth.resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
        exif = Image.Exif()
        exif[274] = 6 if k == 5 else 1
        stream = io.BytesIO()
        picture.convert("L" if shape[2] == 1 else "RGB").save(stream, "JPEG", exif=exif)
        files.append((f"{('ant', 'bee', 'cat')[k % 3]}/{k}.jpg", stream.getvalue()))
    return files


def both(run, content, options, held=lambda n: n // 5, **fields):
    ref = placed(run, content)
    return [loading.load(ref, options, run, 3, held, way, **fields) for way in ("memory", "stream")]


def assert_same(a, b):
    for name in ("train", "test", "validation"):
        assert torch.equal(getattr(a, name)[:], getattr(b, name)[:]), name
        assert torch.equal(getattr(a, f"{name}_labels"), getattr(b, f"{name}_labels")), name
    assert (a.classes, a.mean, a.std, a.size) == (b.classes, b.mean, b.std, b.size)


@pytest.mark.parametrize("kind", KINDS)
def test_streamed_images_are_those_in_memory(kind, new_run):
    run = new_run()
    memory, stream = both(run, packed(kind, mixed()), ImageOptions(image_size=12))
    assert_same(memory, stream)
    chosen = torch.tensor([5, 0, 3])
    pair = [images.batch(data, chosen, AUGMENT, 1, 2) for data in (memory, stream)]
    assert torch.equal(pair[0][0], pair[1][0])
    assert stream.digest
    assert not memory.digest


def test_images_of_one_size_need_no_other(new_run):
    run = new_run()
    assert_same(*both(run, packed("tar", learnable(20)), ImageOptions(subset=12)))


def test_lists_are_made_once(new_run, monkeypatch):
    """The second time nothing is listed; nor are mean and deviation taken again."""
    run, content = new_run(), packed("tar", learnable(20))
    _, first = both(run, content, ImageOptions())
    monkeypatch.delattr(picture_index, "_make")
    monkeypatch.delattr(images, "histogram")
    ref = placed(run, content)
    again = loading.load(ref, ImageOptions(), run, 3, lambda n: n // 5, "stream")
    assert (again.digest, again.mean, again.std) == (first.digest, first.mean, first.std)


def test_damaged_lists_are_made_anew(new_run):
    run, content = new_run(), packed("tar", learnable(20))
    _, first = both(run, content, ImageOptions())
    (rows,) = (run.dir / "index").glob("*/train.npy")
    damaged = rows.read_bytes()[:-3] + b"\1\1\1"
    rows.unlink()  # the first data still reads the old file
    rows.write_bytes(damaged)
    _, again = both(run, content, ImageOptions())
    assert_same(first, again)


def test_what_a_killed_process_left_goes(new_run):
    run, content = new_run(), packed("tar", learnable(20))
    both(run, content, ImageOptions())
    (folder,) = (path.parent for path in (run.dir / "index").glob("*/manifest.json"))
    shutil.rmtree(folder)
    left = folder.with_name(f"{folder.name}.1.part")
    left.mkdir()
    (left / "pictures.bin").write_bytes(b"half")
    both(run, content, ImageOptions())
    assert folder.is_dir()
    assert not left.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_byte_is_seen_and_its_picture_named(kind, new_run):
    """Also of a parquet, whose pictures lie unpacked beside the lists."""
    run, content = new_run(), packed(kind, learnable(20))
    _, data = both(run, content, ImageOptions())
    path = run.input(placed(run, content))
    if kind == "parquet":
        (path,) = (run.dir / "index").glob("*/pictures.bin")
    damaged = bytearray(path.read_bytes())
    (folder,) = (path for path in (run.dir / "index").iterdir() if path.is_dir())
    row = np.load(folder / "train.npy")[4]
    damaged[row["offset"] + row["length"] // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(
        DataError, match=r"(ant|bee|cat/\d{4}.png|row \d+).*not those that were listed"
    ):
        data.train[:], data.validation[:]


def test_a_picture_that_cannot_be_decoded_is_named(new_run):
    run, files = new_run(), learnable(20)
    files[7] = (files[7][0], b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(DataError, match=r"bee/0007.png: damaged"):
        loading.load(
            placed(run, packed("tar", files)), ImageOptions(), run, 0, lambda _: 0, "stream"
        )


def test_another_size_is_refused_with_its_name(new_run):
    run, files = new_run(), learnable(20)
    files[6] = (files[6][0], encoded(np.zeros((16, 15, 3), dtype=np.uint8)))
    with pytest.raises(DataError, match=r"ant/0006.png: 16 x 15 pixels.*several sizes"):
        loading.load(
            placed(run, packed("tar", files)), ImageOptions(), run, 0, lambda _: 0, "stream"
        )


def test_images_that_are_all_alike_are_refused(new_run):
    run, picture = new_run(), encoded(np.zeros((8, 8, 3), dtype=np.uint8))
    files = [(f"{name}/{k}.png", picture) for name in ("ant", "bee") for k in range(6)]
    with pytest.raises(DataError, match="all alike"):
        loading.load(
            placed(run, packed("tar", files)), ImageOptions(), run, 0, lambda _: 0, "stream"
        )


def test_auto_streams_what_does_not_fit(new_run, monkeypatch):
    run, content = new_run(), packed("stored", learnable(20))
    ref = placed(run, content)
    decoded_bytes = 20 * 16 * 16 * 3
    for limit, streams in ((decoded_bytes, False), (decoded_bytes - 1, True)):
        monkeypatch.setattr(loading, "IN_MEMORY_BYTES", limit)
        data = loading.load(ref, ImageOptions(), run, 0, lambda _: 0, "auto")
        assert bool(data.digest) is streams


def test_arrays_and_built_in_sets_are_not_streamed(new_run):
    run, stream = new_run(), io.BytesIO()
    np.savez(stream, images=np.zeros((9, 4, 4, 3), dtype=np.uint8), labels=np.arange(9) % 3)
    for ref in (
        placed(run, stream.getvalue()),
        placed(run, b"").model_copy(update={"dataset": "digits"}),
    ):
        with pytest.raises(SpecError, match="loading stream needs pictures") as caught:
            loading.load(ref, ImageOptions(), run, 0, lambda _: 0, "stream")
        assert caught.value.pointer == "/loading"
