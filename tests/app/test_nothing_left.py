"""Deleting a job or a dataset leaves no byte in any store; previews tell nothing of a photo."""

import io
import zipfile
from pathlib import Path

import pytest
from PIL import ExifTags, Image
from sqlalchemy import func, select

from app import storage
from app.db.session import make_session
from app.db.tables import Artifact, Dataset
from app.services import artifacts, collection, datasets
from app.services.keys import DEFAULT_TENANT
from models.data import files
from tests.app.factories import carry_out, finish, start_run, write
from tests.app.test_storage import s3_server, store  # noqa: F401  # fixtures

PREVIEW = b"\xff\xd8\xff a small picture"


@pytest.fixture
def stored_client(store, client):  # noqa: F811
    """A client over each store."""
    return client


def keys() -> set[str]:
    return {info.key for info in storage.list("t")}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_deleted_job_leaves_no_byte(stored_client, tmp_path):
    run = start_run()
    for name in ("report/figure.png", "report/preview.png", "weights.bin"):
        artifacts.store(run, write(tmp_path / "f", name.encode()), "report", name)
    artifacts.put_log(run, write(tmp_path / "log", b"text\n"))
    finish(run)
    assert len(keys()) == 4
    assert stored_client.delete(f"/v1/jobs/{run.job_id}").status_code == 204
    carry_out(collection.collect())
    assert keys() == set()
    with make_session(write=False) as session:
        assert session.scalar(select(func.count()).select_from(Artifact)) == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_deleted_dataset_leaves_no_byte_and_no_preview(stored_client):
    url = "/v1/datasets"
    body = {"name": "mine", "format": "npz"}
    made = stored_client.post(url, json=body).json()
    binary = {"Content-Type": "application/octet-stream"}
    path = f"{url}/{made['id']}/content"
    assert stored_client.put(path, content=b"bytes", headers=binary).status_code == 200
    assert stored_client.post(f"{url}/mine/finalize").status_code == 202
    with make_session() as session:
        row = datasets.claim_check(session, "w1")
        assert datasets.finish_check(session, row, "w1", {"train": 3}, preview=PREVIEW)
        assert datasets.preview(session, DEFAULT_TENANT, "mine") == PREVIEW
    assert len(keys()) == 1
    assert stored_client.delete(f"{url}/mine").status_code == 204
    assert keys() == set()
    with make_session(write=False) as session:
        assert session.scalar(select(func.count()).select_from(Dataset)) == 0


def photograph(**more) -> bytes:
    """A photograph with place, camera and comment, as JPEG."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Camera of Ada"
    exif[ExifTags.Base.GPSInfo] = {ExifTags.GPS.GPSLatitudeRef: "N"}
    content = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 30, 30)).save(
        content, "JPEG", exif=exif, comment=b"taken by Ada", **more
    )
    return content.getvalue()


@pytest.mark.parametrize("form", ["one", "folder"])
def test_stored_previews_of_datasets_carry_no_exif(tmp_path, form):
    content, picture = tmp_path / "content", tmp_path / "preview.jpg"
    if form == "one":
        content.write_bytes(photograph())
    else:
        with zipfile.ZipFile(content, "w") as archive:
            for name in ("train/a/1.jpg", "train/b/2.jpg", "test/a/3.jpg", "test/b/4.jpg"):
                archive.writestr(name, photograph())
    files.check(content, "image_folder", {}, picture)
    _assert_bare(picture)


def _assert_bare(picture: Path) -> None:
    """Nothing but the form of a JPEG and its pixels."""
    assert b"Ada" not in picture.read_bytes()
    with Image.open(picture) as opened:
        assert not opened.getexif()
        assert opened.info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
