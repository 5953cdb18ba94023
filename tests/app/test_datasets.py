"""Datasets: created, uploaded, checked by one worker at a time, pinned, deleted."""

import asyncio
import base64
import hashlib
import threading
from datetime import timedelta

import pytest
from sqlalchemy import update

from app import storage
from app.db.session import make_session
from app.db.tables import Dataset, Job, utc_now
from app.errors import InvalidError, NotFoundError, UnavailableError
from app.schemas.errors import ReportedError
from app.services import datasets, uploads
from app.services.keys import DEFAULT_TENANT
from app.services.quotas import Room
from app.settings import get_settings
from models.catalog import kinds
from models.core.spec import DatasetRef
from models.data.builtin import BUILTIN
from tests.app.factories import add_job, claim, finish, write
from tests.smallest import smallest

NO_LIMIT = Room(None, 0)
CONTENT = b"some bytes of a dataset" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
URL = "/v1/datasets"


def digest(data=CONTENT):
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


@pytest.fixture
def tenant(client):
    """The tenant of the client's key."""
    return DEFAULT_TENANT


def create(client, name="mine", **more):
    answer = client.post(URL, json={"name": name, "format": "npz", **more})
    assert answer.status_code == 201, answer.text
    return answer.json()


def upload(client, dataset, data=CONTENT, **headers):
    headers = {"Content-Type": "application/octet-stream", **headers}
    return client.put(f"{URL}/{dataset['id']}/content", content=data, headers=headers)


def stored():
    return {info.key for info in storage.list("t")}


def ready(client, name="mine", data=CONTENT, result=None, **more):
    """A dataset that a worker has found good."""
    dataset = create(client, name, **more)
    assert upload(client, dataset, data).status_code == 200
    assert client.post(f"{URL}/{name}/finalize").status_code == 202
    with make_session() as session:
        row = datasets.claim_check(session, "w1")
        assert datasets.finish_check(session, row, "w1", result or {"train": 3})
    return client.get(f"{URL}/{name}").json()


# -- life ------------------------------------------------------------------------------------


def test_from_creation_to_ready(client, tenant):
    dataset = create(client, options={})
    assert dataset["status"] == "uploading"
    assert not dataset["builtin"]
    assert client.post(f"{URL}/mine/finalize").status_code == 409
    answer = upload(client, dataset, **{"Repr-Digest": digest()})
    assert answer.status_code == 200
    assert (answer.json()["sha256"], answer.json()["size_bytes"]) == (SHA256, len(CONTENT))
    (key,) = stored()
    assert key.startswith(f"t/{tenant}/d/{dataset['id']}/content")
    assert b"".join(storage.open(key)) == CONTENT
    for _ in range(2):
        answer = client.post(f"{URL}/{dataset['id']}/finalize")
        assert (answer.status_code, answer.json()["status"]) == (202, "checking")
    assert upload(client, dataset).status_code == 409
    with make_session() as session:
        row = datasets.claim_check(session, "w1")
        assert datasets.finish_check(session, row, "w1", {"train": 3, "cell_size_m": 0.5})
    found = client.get(f"{URL}/mine").json()
    assert (found["status"], found["counts"]) == ("ready", {"train": 3, "cell_size_m": 0.5})
    assert client.post(f"{URL}/mine/finalize").status_code == 409


def test_a_failed_check_tells_why(client):
    dataset = create(client)
    upload(client, dataset)
    client.post(f"{URL}/mine/finalize")
    error = {"code": "data_invalid", "message": "no array x_train", "hint": None}
    with make_session() as session:
        row = datasets.claim_check(session, "w1")
        assert datasets.finish_check(session, row, "w1", error=ReportedError(**error))
    found = client.get(f"{URL}/mine").json()
    assert (found["status"], found["error"]) == ("failed", error)


def fail(client, name="mine"):
    dataset = create(client, name)
    upload(client, dataset)
    client.post(f"{URL}/{name}/finalize")
    with make_session() as session:
        row = datasets.claim_check(session, "w1")
        error = ReportedError(code="data_invalid", message="no array x_train")
        assert datasets.finish_check(session, row, "w1", error=error)
    return dataset


def test_the_name_of_a_failed_dataset_can_be_used_again(client):
    failed = fail(client)
    dataset = create(client)
    assert dataset["id"] != failed["id"]
    assert not stored()
    assert client.get(f"{URL}/{failed['id']}").status_code == 404
    again = client.post(URL, json={"name": "mine", "format": "npz"})
    assert again.status_code == 409
    assert "already, uploading; delete it" in again.json()["detail"]


def test_counts_are_whole_and_contents_are_answered(client):
    contents = {
        "taken": {".png": 12},
        "left_out": [{"what": ".DS_Store", "count": 1, "reason": "hidden"}],
        "split": "as named", "label": "the first folder", "sizes": "16 x 16 pixels", "notes": [],
    }  # fmt: skip
    counts = {"train": 10, "test": 2, "share": 0.5}
    row = ready(client, result=counts | {"contents": contents})
    assert (row["counts"], row["contents"]) == (counts, contents)
    assert all(isinstance(row["counts"][part], int) for part in ("train", "test"))
    assert '"train":1437,' in client.get(f"{URL}/digits").text


def test_options_belong_to_formats(client):
    for content_format, options, status in [
        ("parquet", {"label": "breed", "split": "hold_out"}, 201),
        ("npz", {"label": "breed"}, 422),
        ("net", {"split": "named"}, 422),
        ("image_folder", {"split": "random"}, 422),
        ("idx", {"split": "named"}, 201),
    ]:
        body = {"name": f"d-{content_format}", "format": content_format, "options": options}
        assert client.post(URL, json=body).status_code == status, body


def test_content_may_be_repeated_but_not_changed(client):
    dataset = create(client)
    for data, status in ((b"first", 200), (b"first", 200), (b"second", 422)):
        assert upload(client, dataset, data).status_code == status
        (key,) = stored()
        assert b"".join(storage.open(key)) == b"first"


def test_names(client):
    create(client)
    assert client.post(URL, json={"name": "mine", "format": "npz"}).status_code == 409
    for name in (*BUILTIN, "ds_x", "a b", "", "x" * 121, "../x"):
        answer = client.post(URL, json={"name": name, "format": "npz"})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "/name"
    cells = {"name": "x", "format": "npz", "options": {"cell_size_m": 3}}
    assert client.post(URL, json=cells).status_code == 422
    assert client.post(URL, json={**cells, "format": "elevation"}).status_code == 201


def test_the_same_key_makes_one_dataset(client):
    headers = {"Idempotency-Key": "k"}
    body = {"name": "mine", "format": "npz"}
    first, second = (client.post(URL, json=body, headers=headers) for _ in range(2))
    assert first.status_code == second.status_code == 201
    assert first.json() == second.json()
    assert second.headers["Idempotent-Replayed"] == "true"


def test_lists(client):
    for number in range(5):
        create(client, f"d{number}")
    page = client.get(URL, params={"limit": 3}).json()
    builtin = [row["name"] for row in page["data"] if row["builtin"]]
    assert builtin == [*BUILTIN]
    names = [row["name"] for row in page["data"] if not row["builtin"]]
    while page["has_more"]:
        query = {"limit": 3, "cursor": page["next_cursor"]}
        page = client.get(URL, params=query).json()
        names += [row["name"] for row in page["data"]]
    assert names == ["d4", "d3", "d2", "d1", "d0"]
    assert client.get(f"{URL}/digits").json()["counts"]["train"] == 1437


def test_another_tenant_sees_nothing(client, make_key):
    dataset = create(client)
    scopes = ("datasets:read", "datasets:write")
    foreign = {"Authorization": f"Bearer {make_key(*scopes, tenant_id='ten_other')}"}
    url = f"{URL}/{dataset['id']}"
    assert client.get(url, headers=foreign).status_code == 404
    assert client.delete(url, headers=foreign).status_code == 404
    assert upload(client, dataset, **foreign).status_code == 404
    assert client.post(f"{url}/finalize", headers=foreign).status_code == 404
    listed = client.get(URL, headers=foreign).json()["data"]
    assert all(row["builtin"] for row in listed)
    reader = {"Authorization": f"Bearer {make_key('datasets:read')}"}
    assert client.delete(url, headers=reader).status_code == 403


# -- uploads that must leave nothing ---------------------------------------------------------


def test_wrong_digests(client):
    dataset = create(client, sha256=SHA256)
    wrong = [
        ({"Repr-Digest": digest(b"other")}, CONTENT),
        ({"Content-Digest": digest(b"other")}, CONTENT),
        ({"Repr-Digest": "sha-256=:abc:"}, CONTENT),
        ({}, CONTENT + b"x"),  # not what was announced when it was made
    ]
    for headers, data in wrong:
        assert upload(client, dataset, data, **headers).status_code == 422
        assert not stored()
    assert upload(client, dataset, **{"Repr-Digest": "md5=:abcd:"}).status_code == 200


def test_too_large(client, settings, monkeypatch):
    monkeypatch.setenv("SEXTANT_UPLOAD_LIMIT_BYTES", "1000")
    get_settings.cache_clear()
    dataset = create(client)
    assert upload(client, dataset, b"x" * 1000).status_code == 200
    assert upload(client, dataset, b"x" * 1001).status_code == 413
    parts = (b"x" * 100 for _ in range(11))  # no Content-Length tells it beforehand
    answer = upload(client, dataset, parts)
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(stored()) == 1


def test_wrong_media_type(client):
    dataset = create(client)
    answer = upload(client, dataset, b"{}", **{"Content-Type": "application/json"})
    assert answer.status_code == 415


def test_full_disk(client, monkeypatch):
    dataset = create(client)
    monkeypatch.setattr(storage, "free_bytes", lambda: 1000)
    assert upload(client, dataset).status_code == 503
    assert not stored()


def test_a_disk_that_fills_up_meanwhile(settings, monkeypatch):
    free = iter([10**12, 10**12, 1000])
    monkeypatch.setattr(storage, "free_bytes", lambda: next(free))
    monkeypatch.setattr(uploads, "SPACE_EVERY_BYTES", 2**20)

    async def chunks():
        for _ in range(20):
            yield b"x" * 2**19

    row = Dataset(id="ds_1", tenant_id="ten_1", name="x", format="npz")
    with pytest.raises(UnavailableError):
        asyncio.run(uploads.receive(row, chunks(), 10 * 2**20, None, NO_LIMIT))
    assert not stored()


def test_an_upload_that_is_cut_off(settings):
    async def chunks():
        yield b"x" * (6 * 2**20)
        raise ConnectionResetError

    row = Dataset(id="ds_1", tenant_id="ten_1", name="x", format="npz")
    with pytest.raises(ConnectionResetError):
        asyncio.run(uploads.receive(row, chunks(), None, None, NO_LIMIT))
    assert not stored()
    assert not [path for path in settings.state_dir.rglob("*content*") if path.is_file()]


def test_finalized_during_an_upload(client, tenant, tmp_path):
    dataset = create(client)
    upload(client, dataset)
    (tmp_path / "f").write_bytes(b"late")
    late = storage.put(f"t/{tenant}/d/{dataset['id']}/content-late", tmp_path / "f")
    client.post(f"{URL}/mine/finalize")
    key = f"t/{tenant}/d/{dataset['id']}/content-late"
    with make_session() as session, pytest.raises(Exception, match="finalized"):
        uploads.accept(session, tenant, dataset["id"], key, late)
    (kept,) = stored()
    assert b"".join(storage.open(kept)) == CONTENT


# -- the check -------------------------------------------------------------------------------


def test_one_worker_checks(client):
    for number in range(6):
        upload(client, create(client, f"d{number}"))
        client.post(f"{URL}/d{number}/finalize")
    taken, guard = [], threading.Lock()

    def work(worker_id):
        while True:
            with make_session() as session:
                row = datasets.claim_check(session, worker_id)
            if row is None:
                return
            with guard:
                taken.append(row.name)

    threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [f"d{number}" for number in range(6)]


def expire():
    with make_session() as session:
        past = utc_now() - timedelta(minutes=1)
        session.execute(update(Dataset).values(lease_expires_at=past))


def test_a_lost_worker_is_replaced_and_fenced(client):
    upload(client, create(client))
    client.post(f"{URL}/mine/finalize")
    with make_session() as session:
        assert datasets.check_waiting(session)
        first = datasets.claim_check(session, "w1")
        assert datasets.claim_check(session, "w2") is None
        assert not datasets.check_waiting(session)
    expire()
    with make_session() as session:
        assert datasets.claim_check(session, "w2").id == first.id
        assert not datasets.renew_check(session, first, "w1")
        assert not datasets.finish_check(session, first, "w1", {"train": 1})
        assert datasets.renew_check(session, first, "w2")
    expire()
    with make_session() as session:
        assert datasets.claim_check(session, "w3") is not None
    expire()
    with make_session() as session:  # it has cost three workers
        assert datasets.claim_check(session, "w4") is None
    found = client.get(f"{URL}/mine").json()
    assert (found["status"], found["error"]["code"]) == ("failed", "worker_lost")


# -- references and deletion -----------------------------------------------------------------


def test_resolve_and_open(client, tenant):
    found = ready(client)
    with make_session() as session:
        for ref in ("mine", found["id"]):
            ready_set = datasets.resolve(session, tenant, ref)
            assert (ready_set.sha256, ready_set.info) == (SHA256, ("mine", {"train": 3}))
            assert ready_set.read is None
            pinned = DatasetRef(dataset=ref, sha256=SHA256)
            assert storage.head(datasets.open_input(session, tenant, pinned))
        assert datasets.resolve(session, tenant, "digits")[0] is None
        with pytest.raises(NotFoundError):
            datasets.resolve(session, "ten_other", "mine")
        with pytest.raises(NotFoundError):
            datasets.open_input(session, tenant, DatasetRef(dataset="mine", sha256="0" * 64))
    create(client, "empty")
    with make_session() as session, pytest.raises(InvalidError, match="uploading"):
        datasets.resolve(session, tenant, "empty")


TRAININGS = [kind for kind in kinds() if {"data", "images"} <= kinds()[kind].model_fields.keys()]


def training(kind="dynamic_downsampling.train", image_size=32, **data):
    spec = smallest(kind) | {"data": {"dataset": "mine", **data}}
    images = {name: value for name, value in spec.get("images", {}).items() if name == "augment"}
    return {"spec": spec | {"images": images | {"image_size": image_size}}}


def test_options_of_the_import_are_pinned(client):
    """The run reads the set as the import did, whatever becomes of the dataset's row."""
    options = {"label": "breed", "split": "hold_out"}
    counts = {"train": 300, "test": 60, "classes": 3, "channels": 3, "height": 32, "width": 32}
    ready(client, result=counts, format="parquet", options=options)
    answer = client.post("/v1/jobs", json=training())
    assert answer.status_code == 201, answer.text
    with make_session(write=False) as session:
        data = session.get_one(Job, answer.json()["id"]).resolved_spec["data"]
    assert (data["read"], data["sha256"]) == (options, SHA256)
    other = client.post("/v1/jobs", json=training(read={"label": "age"}))
    assert other.status_code == 422
    assert other.json()["errors"][0]["pointer"] == "/spec/data/read"


@pytest.mark.parametrize("kind", TRAININGS)
def test_images_of_several_sizes_need_one_size_at_submission(kind, client):
    counts = {"train": 300, "test": 60, "classes": 3, "channels": 3, "sizes": 9}
    ready(client, result=counts)
    answer = client.post("/v1/jobs", json=training(kind, None))
    assert answer.status_code == 422
    assert "images.image_size: the images of this dataset have 9 sizes" in answer.text
    resized = client.post("/v1/jobs", json=training(kind))
    assert "images.image_size" not in resized.text or resized.status_code == 201


def test_the_content_comes_back_once_it_is_ready(client, make_key):
    dataset = create(client)
    url = f"/v1/datasets/{dataset['id']}/content"
    assert "only a ready one has content" in client.get(url).text
    client.delete(f"/v1/datasets/{dataset['id']}")
    ready(client)
    answer = client.get("/v1/datasets/mine/content")
    assert answer.content == CONTENT
    assert answer.headers["etag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    assert 'filename="mine"' in answer.headers["content-disposition"]
    part = client.get("/v1/datasets/mine/content", headers={"Range": "bytes=1-2"})
    assert (part.status_code, part.content) == (206, CONTENT[1:3])
    assert client.get("/v1/datasets/digits/content").status_code == 404
    other = {"Authorization": f"Bearer {make_key('datasets:read', tenant_id='ten_other')}"}
    assert client.get("/v1/datasets/mine/content", headers=other).status_code == 404


def test_a_deleted_dataset_leaves_no_byte(client):
    """Nor do uploads that were replaced or broken off."""
    ready(client, "other", b"other")
    before = stored()
    found = ready(client)
    path = write(get_settings().state_dir / "stray", b"an upload whose process died")
    storage.put(f"t/{DEFAULT_TENANT}/d/{found['id']}/content-up_0", path)
    assert len(stored()) == len(before) + 2
    assert client.delete(f"{URL}/mine").status_code == 204
    assert stored() == before


def test_no_deletion_while_a_job_needs_it(client, tenant):
    found = ready(client)
    ready(client, "other", b"other")
    add_job(tenant, resolved_spec={"data": {"dataset": "mine", "sha256": SHA256}})
    run = claim()
    answer = client.delete(f"{URL}/mine")
    assert answer.status_code == 409
    assert run.job_id in answer.json()["detail"]
    assert client.delete(f"{URL}/other").status_code == 204
    finish(run)
    with make_session(write=False) as session:
        assert session.get_one(Job, run.job_id).status == "succeeded"
    assert client.delete(f"{URL}/{found['id']}").status_code == 204
    assert client.get(f"{URL}/mine").status_code == 404
    assert not stored()
    create(client)  # the name is free again
