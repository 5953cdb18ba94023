"""Files that promise more than they hold are refused by their headers, as invalid data."""

import io
import json
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.lib import format as npy
from PIL import Image
from safetensors.numpy import save

from models.core.errors import DataError
from models.core.json_text import parse_json
from models.data import archives, files, programs, tables
from models.data.decode import decode
from models.data.headers import safetensors_shapes
from models.data.tables import expand

DEEP = 200_000


def safetensors_bytes(header: dict | bytes, size: int = 16) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


def entry(shape, first, last, dtype="F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


class TestSafetensors:
    def test_shapes(self, tmp_path):
        path = tmp_path / "content"
        path.write_bytes(save({"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.int8)}))
        assert safetensors_shapes(path) == {"a": [2, 3], "b": [4]}
        assert files.check(path, "net", {}) == {"tensors": 2, "parameters": 10}

    @pytest.mark.parametrize(
        "content",
        [
            safetensors_bytes({"a": entry([4], 0, 16)}, size=15),
            safetensors_bytes({"a": entry([4], 0, 16)}, size=17),
            safetensors_bytes({"a": entry([4000], 0, 16)}),
            safetensors_bytes({"a": entry([2**40, 2**40], 0, 16)}),
            safetensors_bytes({"a": entry([4], 0, 16), "b": entry([2], 0, 8)}),
            safetensors_bytes({"a": entry([2], 8, 16)}),
            safetensors_bytes({"a": entry([-4], 0, 16)}),
            safetensors_bytes({"a": entry([True], 0, 16)}),
            safetensors_bytes({"a": entry([4], 0, 16, "F99")}),
            safetensors_bytes(b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}"),
            safetensors_bytes(b"[]"),
            (2**62).to_bytes(8, "little"),
            b"",
            b"\x80\x04cos\nsystem\n",
        ],
    )
    def test_what_does_not_add_up(self, tmp_path, content):
        (tmp_path / "content").write_bytes(content)
        with pytest.raises(DataError, match="neither") as refused:
            files.check(tmp_path / "content", "net", {})
        assert str(tmp_path) not in str(refused.value)


@pytest.mark.parametrize("text", [b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP + b"0" + b"}" * DEEP])
def test_deep_json_is_invalid_data(tmp_path, text):
    with pytest.raises(DataError, match="nested too deeply"):
        parse_json(text, "x")
    path = tmp_path / "net.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/models/model.json", text)
    with pytest.raises(DataError, match="nested too deeply"):
        programs.check(path)


def png_with(kind: bytes, body: bytes, *, last: bool) -> bytes:
    """A picture of 4 x 4 with a further chunk before or after its pixels."""
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    png = stream.getvalue()
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    at = len(png) - 12 if last else 33
    return png[:at] + chunk + png[at:]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("kind", "head"), [(b"zTXt", b"k\0\0"), (b"iCCP", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0")]
)
def test_packed_texts_of_pictures_are_not_inflated(kind, head, last):
    bomb = head + zlib.compress(bytes(64 * 2**20), 9)
    content = png_with(kind, bomb, last=last)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"photo\.png: damaged"):
        decode(content, "photo.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20
    assert decode(png_with(kind, head + zlib.compress(b"note"), last=last), "x").shape == (4, 4, 3)


class TestArrays:
    @staticmethod
    def refused(path, header: bytes, size: int = 12) -> DataError:
        labels = io.BytesIO()
        np.save(labels, np.zeros(3, np.int64))
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            magic = npy.magic(1, 0) + struct.pack("<H", len(header)) + header
            archive.writestr("images.npy", magic + bytes(size))
            archive.writestr("labels.npy", labels.getvalue())
        with pytest.raises(DataError) as error:
            files.check(path, "npz", {})
        return error.value

    @staticmethod
    def header(shape: str, descr: str = "'|u1'") -> bytes:
        return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()

    @pytest.mark.parametrize(
        ("shape", "descr"),
        [
            ("(3, 2**30, 2)", "'|u1'"),
            ("(3, 1000000, 1000)", "'|u1'"),
            ("(3, -2, 2)", "'|u1'"),
            ("(3, 2, 2)", "'|V0'"),
            ("(" + "-" * 4000 + "1,)", "'|u1'"),
            ("(" * 4000, "'|u1'"),
            ("(3, 2, 2)", "'|O'"),
            ("(3, 2, 2)", "[('a', '|O')]"),
        ],
    )
    def test_headers(self, tmp_path, shape, descr):
        tracemalloc.start()
        self.refused(tmp_path / "x.npz", self.header(shape, descr))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 * 2**20

    def test_promises_of_the_archive_are_bounded_too(self, tmp_path):
        """An entry that calls itself large is believed as far as its packed bytes can reach."""
        path = tmp_path / "x.npz"
        self.refused(path, self.header("(3, 1000000, 1000)"))
        content = bytearray(path.read_bytes())
        at = content.index(b"PK\x01\x02")  # of the central directory
        content[at + 24 : at + 28] = struct.pack("<I", 3_100_000_000)
        path.write_bytes(content)
        with archives.open_archive(path) as archive:
            assert archive.room_bytes("images.npy") == archives.RATIO_FLOOR_BYTES
        tracemalloc.start()
        with pytest.raises(DataError):
            files.check(path, "npz", {})
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
        tracemalloc.stop()


class TestTables:
    @staticmethod
    def repeated(path, value: bytes, rows: int) -> None:
        """One value in every row: the file holds it once."""
        index = pa.array(np.zeros(rows, np.int32))
        images = pa.DictionaryArray.from_arrays(index, pa.array([value], pa.binary()))
        column = pa.StructArray.from_arrays(
            [images, pa.nulls(rows, pa.string())], ["bytes", "path"]
        )
        table = pa.table({"image": column, "label": np.zeros(rows, np.int64)})
        pq.write_table(table, path, compression="zstd", store_schema=False)

    def test_a_dictionary_is_not_written_out(self, tmp_path):
        """8 GB of a file of kilobytes: refused before a row is decoded."""
        path = tmp_path / "x.parquet"
        self.repeated(path, bytes(8 * 2**20), 1000)
        assert path.stat().st_size < 10_000
        before = pa.total_allocated_bytes()
        peak = pa.default_memory_pool().max_memory()
        with pytest.raises(DataError, match="inflates to more than"):
            files.check(path, "parquet", {})
        assert pa.default_memory_pool().max_memory() - max(before, peak) < 64 * 2**20

    def test_a_dictionary_within_the_limit_is_read(self, tmp_path):
        stream = io.BytesIO()
        Image.new("RGB", (5, 4), (1, 2, 3)).save(stream, "PNG")
        self.repeated(tmp_path / "x.parquet", stream.getvalue(), 10)
        read = files.read_images(tmp_path / "x.parquet")
        assert read.train.images.shape == (8, 4, 5, 3)
        assert (read.train.images == [1, 2, 3]).all()

    def test_large_chunks_are_not_held_as_dictionaries(self, tmp_path, monkeypatch):
        """What is decoded a few rows at a time is the same."""
        stream = io.BytesIO()
        Image.new("RGB", (5, 4), (1, 2, 3)).save(stream, "PNG")
        self.repeated(tmp_path / "x.parquet", stream.getvalue(), 600)
        whole = files.read_images(tmp_path / "x.parquet")
        monkeypatch.setattr(tables, "DICTIONARY_BYTES", 10)
        assert (files.read_images(tmp_path / "x.parquet").train.images == whole.train.images).all()
        self.repeated(tmp_path / "y.parquet", bytes(2**20), 1000)
        with pytest.raises(DataError, match="inflates to more than"):
            files.check(tmp_path / "y.parquet", "parquet", {})

    def test_footers_that_promise_too_much(self, tmp_path):
        image = [{"bytes": bytes(300 * 2**10) + bytes([index])} for index in range(10)]
        table = pa.table({"image": image, "label": [0] * 10})
        pq.write_table(table, tmp_path / "x.parquet", compression="zstd")
        with pytest.raises(DataError, match="inflates to more than 1048576 bytes"):
            files.check(tmp_path / "x.parquet", "parquet", {})

    def test_expanded_batches_are_equal(self):
        values = pa.array([b"a", b"bcd", None, b"a"], pa.binary())
        struct_ = pa.StructArray.from_arrays(
            [values.dictionary_encode(), pa.array([1, 2, 3, 4])],
            ["bytes", "n"],
            mask=pa.array([False, False, False, True]),
        )
        batch = pa.RecordBatch.from_arrays([struct_, values.dictionary_encode()], ["image", "t"])
        expanded, size = expand(batch, 10**6, "x")
        assert expanded.to_pylist() == batch.to_pylist()
        assert not any(pa.types.is_dictionary(kind) for kind in (expanded.schema.field("t").type,))
        assert size >= 9
        with pytest.raises(DataError, match="x: inflates"):
            expand(batch, size - 1, "x")

    def test_a_deep_note_is_invalid_data(self, tmp_path):
        table = pa.table({"image": [{"bytes": b"x"}], "label": [0]})
        noted = table.replace_schema_metadata({"huggingface": "[" * DEEP + "]" * DEEP})
        pq.write_table(noted, tmp_path / "x.parquet")
        with pytest.raises(DataError, match="nested too deeply"):
            files.check(tmp_path / "x.parquet", "parquet", {})
