"""The store: atomic, clean keys, the same on a local disk and on S3."""

import asyncio
import errno
import hashlib
import os
import subprocess
import uuid

import boto3
import pytest
from moto.server import ThreadedMotoServer

from app import storage
from app.errors import UnavailableError
from app.settings import get_settings
from tests.conftest import fresh_caches


@pytest.fixture(scope="module")
def s3_server():
    """An S3 server in this process."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path, monkeypatch):
    """Settings with a local store, then with one on S3."""
    monkeypatch.setenv("SEXTANT_STATE_DIR", str(tmp_path))
    if request.param == "s3":
        endpoint, bucket = request.getfixturevalue("s3_server"), f"b{uuid.uuid4().hex}"
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        s3.create_bucket(Bucket=bucket)
        monkeypatch.setenv("SEXTANT_STORE_URL", f"s3://{bucket}/some/prefix")
        monkeypatch.setenv("SEXTANT_STORE_ENDPOINT", endpoint)
    fresh_caches()
    yield request.param
    fresh_caches()


@pytest.mark.parametrize("size", [0, 1, 7 * 2**20])
def test_put_and_read_back(store, tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "f").write_bytes(data)
    stored = storage.put("t/a/file.bin", tmp_path / "f")
    assert stored == (size, hashlib.sha256(data).hexdigest())
    assert storage.head("t/a/file.bin").size_bytes == size
    assert b"".join(storage.open("t/a/file.bin")) == data
    middle = b"".join(storage.open("t/a/file.bin", size // 3, size // 2))
    assert middle == data[size // 3 : size // 2]


def test_replace_list_delete(store, tmp_path):
    for name, data in (("t/a/x", b"1"), ("t/a/x", b"22"), ("t/a/y", b"3"), ("t/ab/z", b"4")):
        (tmp_path / "f").write_bytes(data)
        storage.put(name, tmp_path / "f")
    assert {info.key: info.size_bytes for info in storage.list("t/a/")} == {"t/a/x": 2, "t/a/y": 1}
    storage.delete("t/a/x")
    storage.delete("t/a/x")
    assert [info.key for info in storage.list("t/a")] == ["t/a/y"]
    with pytest.raises(FileNotFoundError):
        storage.head("t/a/x")
    with pytest.raises(FileNotFoundError):
        list(storage.open("t/a/x"))


@pytest.mark.parametrize(
    "key", ["../x", "t/../../x", "/x", "t//x", "t/./x", "", "t/x y", "t/x\n", "t/ä", "t/x/"]
)
def test_unclean_keys_are_refused(store, tmp_path, key):
    (tmp_path / "f").write_bytes(b"1")
    for call in (lambda: storage.put(key, tmp_path / "f"), lambda: storage.head(key)):
        with pytest.raises(ValueError, match="not a storage key"):
            call()


def test_local_path_only_for_local_stores(store, tmp_path):
    (tmp_path / "f").write_bytes(b"123")
    storage.put("t/x", tmp_path / "f")
    path = storage.local_path("t/x")
    assert (path.read_bytes() if path else None) == (b"123" if store == "local" else None)
    assert (storage.free_bytes() is None) == (store == "s3")


def test_a_failed_write_leaves_the_old_object(store, tmp_path):
    (tmp_path / "f").write_bytes(b"old")
    storage.put("t/x", tmp_path / "f")

    async def broken():
        yield b"n" * (6 * 2**20)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        asyncio.run(storage.put_stream("t/x", broken()))
    assert b"".join(storage.open("t/x")) == b"old"
    assert [info.key for info in storage.list("t")] == ["t/x"]


def test_a_store_that_is_away(tmp_path, monkeypatch):
    monkeypatch.setenv("SEXTANT_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("SEXTANT_STORE_URL", "s3://bucket")
    monkeypatch.setenv("SEXTANT_STORE_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(storage, "RETRY", {"max_retries": 0})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "x")
    fresh_caches()
    with pytest.raises(UnavailableError) as away:
        storage.head("t/x")
    assert isinstance(away.value, OSError)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_full_disk_is_enospc(tmp_path, monkeypatch):
    small = tmp_path / "store"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this machine mounts nothing")
    monkeypatch.setenv("SEXTANT_STATE_DIR", str(tmp_path))
    fresh_caches()
    assert get_settings().store == small.as_uri()
    (tmp_path / "f").write_bytes(b"x" * 8 * 2**20)
    try:
        with pytest.raises(OSError, match="No space left") as full:
            storage.put("t/x", tmp_path / "f")
        assert full.value.errno == errno.ENOSPC
        assert not list(small.rglob("x*"))
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)  # busy for a moment under load
