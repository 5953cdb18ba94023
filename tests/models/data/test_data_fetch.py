"""Public sets, from a server in this process that serves tiny files in the real formats."""

import gzip
import hashlib
import io
import json
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import scipy.io

from models.core.errors import DataError, DataMissingError
from models.core.run import Run, StoppedError
from models.data import fetch, files
from models.data.idx import read_idx

RNG = np.random.default_rng(0)
LABELS = np.array([0, 1, 1, 0, 2, 9], dtype=np.uint8)


def pixels(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def idx(values: np.ndarray) -> bytes:
    head = b"\0\0\x08" + bytes([values.ndim]) + np.array(values.shape, ">u4").tobytes()
    return gzip.compress(head + values.tobytes(), mtime=0)


def tarball(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def records(images: np.ndarray, *labels: np.ndarray) -> bytes:
    flat = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([*(column[:, None] for column in labels), flat], 1).tobytes()


def matlab(images: np.ndarray, labels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    scipy.io.savemat(stream, {"X": images.transpose(1, 2, 3, 0), "y": labels[:, None]})
    return stream.getvalue()


RGB, GREY = pixels(6, 32, 32, 3), pixels(6, 28, 28)
CONTENT = {
    "cifar10": [tarball(
        {"cifar-10-batches-bin/batches.meta.txt": b"\n".join(b"c%d" % i for i in range(10)) + b"\n"}
        | {f"cifar-10-batches-bin/data_batch_{i}.bin": records(RGB[i - 1 : i], LABELS[i - 1 : i])
           for i in range(1, 6)}
        | {"cifar-10-batches-bin/test_batch.bin": records(RGB[5:], LABELS[5:])})],
    "cifar100": [tarball(
        {"cifar-100-binary/fine_label_names.txt": b"\n".join(b"f%d" % i for i in range(100)),
         "cifar-100-binary/train.bin": records(RGB[:5], LABELS[:5] + 7, LABELS[:5]),
         "cifar-100-binary/test.bin": records(RGB[5:], LABELS[5:] + 7, LABELS[5:])})],
    "mnist": [idx(GREY[:5]), idx(LABELS[:5]), idx(GREY[5:]), idx(LABELS[5:])],
    "fashion_mnist": [idx(GREY[:5]), idx(LABELS[:5]), idx(GREY[5:]), idx(LABELS[5:])],
    "svhn": [matlab(RGB[:5], np.where(LABELS[:5], LABELS[:5], 10)), matlab(RGB[5:], LABELS[5:])],
}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    served: dict[str, bytes] = {}
    asked: list[str | None] = []

    def do_GET(self):
        content = self.served[self.path]
        span = self.headers["Range"]
        Handler.asked.append(span)
        start = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """Serve the tiny files and point the table at them, with their own checksums."""
    monkeypatch.setattr(Handler, "asked", [])
    monkeypatch.setattr(Handler, "served", {})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    table = {}
    for name, contents in CONTENT.items():
        sources = []
        for source, content in zip(fetch.SETS[name].sources, contents, strict=True):
            path = f"/{name}/{source.url.rpartition('/')[2]}"
            Handler.served[path] = content
            digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
            url = f"http://127.0.0.1:{httpd.server_port}{path}"
            sources.append(fetch.SourceFile(url, digest))
        table[name] = fetch.SETS[name]._replace(sources=tuple(sources))
    monkeypatch.setattr(fetch, "SETS", table)
    yield table
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def run(tmp_path):
    with (tmp_path / "events.jsonl").open("w") as events:
        yield Run(tmp_path, events)


@pytest.mark.parametrize("name", CONTENT)
def test_set_becomes_an_npz_that_an_upload_may_be(name, server, run):
    actual = fetch.fetch(name, run.dir, run)
    arrays = files.read_images(run.dir / actual["file"])
    images = GREY[..., None] if "mnist" in name else RGB
    np.testing.assert_array_equal(arrays.train.images, images[:5])
    np.testing.assert_array_equal(arrays.test.images, images[5:])
    np.testing.assert_array_equal(arrays.train.labels, LABELS[:5])
    np.testing.assert_array_equal(arrays.test.labels, LABELS[5:])
    assert len(arrays.classes) == actual["classes"] == (100 if name == "cifar100" else 10)
    assert (actual["train"], actual["test"]) == (5, 1)
    with (run.dir / actual["file"]).open("rb") as file:
        assert actual["sha256"] == hashlib.file_digest(file, "sha256").hexdigest()
    lines = (run.dir / "events.jsonl").read_text().splitlines()
    assert {json.loads(line)["unit"] for line in lines} == {"byte"}


def test_what_is_there_is_not_fetched_again(server, run):
    fetch.fetch("cifar10", run.dir, run)
    fetch.fetch("cifar10", run.dir, run)
    assert len(Handler.asked) == 1


def test_a_broken_download_goes_on_where_it_stopped(server, run):
    content = CONTENT["cifar10"][0]
    (run.dir / "cifar-10-binary.tar.gz.part").write_bytes(content[:1000])
    assert fetch.fetch("cifar10", run.dir, run)["train"] == 5
    assert Handler.asked == ["bytes=1000-"]


def test_a_wrong_checksum_is_refused_and_thrown_away(server, run, monkeypatch):
    (source,) = server["cifar10"].sources
    wrong = server["cifar10"]._replace(sources=(source._replace(md5="0" * 32),))
    monkeypatch.setitem(fetch.SETS, "cifar10", wrong)
    with pytest.raises(DataError, match="expected 0000"):
        fetch.fetch("cifar10", run.dir, run)
    assert [path.name for path in run.dir.iterdir()] == ["events.jsonl"]


def test_a_stop_leaves_a_part_to_go_on_from(server, run):
    run.request_stop("test")
    with pytest.raises(StoppedError):
        fetch.fetch("mnist", run.dir, run)
    assert [*run.dir.glob("*.part")]
    assert not [*run.dir.glob("*.gz")]


def test_unknown_set_and_dead_address(server, run, monkeypatch):
    with pytest.raises(DataError, match="there are cifar10, cifar100"):
        fetch.fetch("imagenet", run.dir, run)
    dead = server["svhn"]._replace(
        sources=(fetch.SourceFile("http://127.0.0.1:9/x.mat", "0" * 32),)
    )
    monkeypatch.setitem(fetch.SETS, "svhn", dead)
    with pytest.raises(DataMissingError, match=r"127\.0\.0\.1:9"):
        fetch.fetch("svhn", run.dir, run)


def test_damaged_idx_is_refused(tmp_path):
    for content, match in [
        (idx(GREY)[:-30], "damaged"),
        (gzip.compress(b"\0\0\x0d\x01"), "no IDX file"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x09abc"), "3 bytes for the shape"),
    ]:
        path = tmp_path / "x.gz"
        path.write_bytes(content)
        with pytest.raises(DataError, match=match), path.open("rb") as file:
            read_idx(file, path.name)


def test_every_source_is_pinned():
    for name, (sources, _) in fetch.SETS.items():
        assert sources, name
        for source in sources:
            assert len(bytes.fromhex(source.md5)) == 16
