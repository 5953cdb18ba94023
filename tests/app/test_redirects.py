"""Downloads that are redirected into the bucket: signed, in ranges, without the key."""

import asyncio

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from app.db.session import make_session
from app.services import artifacts, keys
from sextant_client import AsyncClient, Client
from tests.app.factories import finish, start_run, write
from tests.conftest import fresh_caches
from tests.service import connect, serving

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
DATA = bytes(range(256)) * 40


@pytest.fixture
def bucket(settings, monkeypatch):
    """A store in a bucket to which downloads are redirected."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    s3.create_bucket(Bucket="files")
    monkeypatch.setenv("SEXTANT_STORE_URL", "s3://files")
    monkeypatch.setenv("SEXTANT_STORE_ENDPOINT", endpoint)
    monkeypatch.setenv("SEXTANT_STORE_REDIRECT_S", "60")
    fresh_caches()
    yield endpoint
    server.stop()


@pytest.fixture
def row(bucket, tmp_path):
    """A file of a job."""
    run = start_run()
    stored = artifacts.store(run, write(tmp_path / "f", DATA), "table", "maps/a.csv")
    finish(run)
    return stored


def test_clients_follow_without_their_key(bucket, row, tmp_path):
    with make_session() as session:
        key = keys.ensure_admin_key(session)
    with serving() as url:
        with connect(url, Authorization=f"Bearer {key}") as plain:
            path = f"/v1/jobs/{row.job_id}/artifacts/maps/a.csv"
            answer = plain.get(path)
            assert answer.status_code == 307
            assert answer.headers["ETag"] == f'"{row.sha256}"'
            address = answer.headers["Location"]
            assert address.startswith(bucket)
            tag = {"Range": "bytes=5-9", "If-Range": answer.headers["ETag"]}
            assert plain.get(path, headers=tag).content == DATA[5:10]
            tag = {"If-None-Match": answer.headers["ETag"]}
            assert plain.get(path, headers=tag).status_code == 304
        part = httpx.get(address, headers={"Range": "bytes=5-9"})
        assert (part.status_code, part.content) == (206, DATA[5:10])
        assert httpx.get(address.replace("/files/", "/other/")).status_code >= 400
        with Client(url, key) as client:
            got = client.download(row.job_id, row.name, tmp_path / "sync.csv")
        assert got.read_bytes() == DATA

        async def fetch():
            async with AsyncClient(url, key) as client:
                return await client.download(row.job_id, row.name, tmp_path / "async.csv")

        assert asyncio.run(fetch()).read_bytes() == DATA


def test_a_local_store_sends_the_bytes(settings, client, monkeypatch, tmp_path):
    monkeypatch.setenv("SEXTANT_STORE_REDIRECT_S", "60")
    run = start_run()
    stored = artifacts.store(run, write(tmp_path / "f", DATA), "table", "a.csv")
    answer = client.get(f"/v1/artifacts/{stored.id}/content")
    assert (answer.status_code, answer.content) == (200, DATA)
