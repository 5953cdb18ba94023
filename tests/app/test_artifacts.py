"""Files of runs: stored once checked, found, kept or collected, downloaded in ranges."""

import base64
import hashlib
import os
import re
from datetime import timedelta
from email.parser import BytesParser
from types import SimpleNamespace

import obstore
import pytest
from fastapi.exceptions import HTTPException
from sqlalchemy import func, select, update

from app import storage
from app.db.session import make_session
from app.db.tables import Artifact, Event, Job, Metric, utc_now
from app.errors import InvalidError, NotFoundError
from app.http.downloads import parse_ranges
from app.services import artifacts, collection, events, logs
from app.settings import get_settings
from models.core.spec import ArtifactRef
from tests.app.factories import (
    add_job,
    carry_out,
    events_of,
    finish,
    line,
    requeue,
    start_run,
    write,
)


@pytest.fixture
def put(tmp_path):
    """Store some bytes as an artifact of a run."""

    def put(run, name, data=b"data", role="report", **more):
        return artifacts.store(run, write(tmp_path / "f", data), role, name, **more)

    return put


def find(run, name):
    with make_session(write=False) as session:
        return artifacts.find(session, run.tenant_id, run.job_id, name)


def names(run, role=None):
    with make_session(write=False) as session:
        return [a.name for a in artifacts.listing(session, run.tenant_id, run.job_id, role)]


def count(table):
    with make_session(write=False) as session:
        return session.scalar(select(func.count()).select_from(table))


def test_a_stored_file_is_ready_and_told(settings, put):
    run = start_run()
    row = put(run, "out/report.json", b"{}", metadata={"n": float("nan")}, step=3)
    assert row.status == "ready"
    assert row.storage_key == f"t/{run.tenant_id}/j/{run.job_id}/r1/out/report.json"
    assert (row.size_bytes, row.sha256) == (2, hashlib.sha256(b"{}").hexdigest())
    assert (row.media_type, row.labels) == ("application/json", {"n": None})
    assert b"".join(storage.open(row.storage_key)) == b"{}"
    (event,) = events_of(run.job_id, "artifact")
    assert event.data["artifact_id"] == row.id
    assert find(run, "out/report.json").id == row.id


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "a/../b", ".", "", "a b", "ä", "x" * 201])
def test_unclean_names_are_refused(settings, put, name):
    run = start_run()
    with pytest.raises(ValueError, match="artifact name"):
        put(run, name)
    assert count(Artifact) == 0


def test_a_later_run_replaces_and_an_earlier_changes_nothing(settings, put):
    first = start_run()
    old = put(first, "a", b"1")
    second = requeue(first)
    assert put(first, "a", b"late") is None
    assert put(first, "b", b"late") is None
    new = put(second, "a", b"22")
    assert find(second, "a").id == new.id != old.id
    assert names(second) == ["a"]
    carry_out(collection.collect())
    assert count(Artifact) == 1
    assert [info.key for info in storage.list("t")] == [new.storage_key]


def test_losing_the_job_during_the_copy_leaves_no_row(settings, put, monkeypatch):
    run = start_run()
    copy = storage.put

    def slow_copy(key, path):
        stored = copy(key, path)
        requeue(run)
        return stored

    monkeypatch.setattr(storage, "put", slow_copy)
    assert put(run, "a") is None
    assert names(run) == []
    carry_out(collection.collect())
    assert count(Artifact) == 0
    assert not list(storage.list("t"))


def test_the_same_run_may_store_a_name_again(settings, put):
    run = start_run()
    put(run, "a", b"1")
    put(run, "a", b"22")
    carry_out(collection.collect())
    row = find(run, "a")
    assert b"".join(storage.open(row.storage_key)) == b"22"
    assert row.sha256 == hashlib.sha256(b"22").hexdigest()


def test_a_failed_copy_leaves_a_pending_row_that_is_collected(settings, put, monkeypatch):
    run = start_run()

    def full(key, path):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "put", full)
        with pytest.raises(OSError, match="No space"):
            put(run, "a")
    with make_session() as session:
        session.execute(update(Artifact).values(created_at=utc_now() - timedelta(hours=2)))
    carry_out(collection.collect())
    assert count(Artifact) == 1  # the run might still be copying
    finish(run, 70)
    carry_out(collection.collect())
    assert count(Artifact) == 0


# -- checkpoints -----------------------------------------------------------------------------


def test_retention_of_checkpoints(settings, put):
    run = start_run()
    marks = {2: {"named": True}, 3: {"best": True}, 5: {"best": True}}
    for step in range(1, 9):
        put(
            run,
            f"checkpoints/step-{step}.st",
            b"x",
            "checkpoint",
            step=step,
            metadata=marks.get(step),
        )
    put(run, "weights.st", b"w", "weights")
    kept = {f"checkpoints/step-{step}.st" for step in (2, 5, 7, 8)}
    assert set(names(run, "checkpoint")) == kept
    carry_out(collection.collect())
    assert len(list(storage.list("t"))) == len(kept) + 1


def test_latest_best_and_step(settings, put):
    run = start_run()
    put(run, "c/9", b"9", "checkpoint", step=9, metadata={"best": True})
    run = requeue(run)  # went on from a checkpoint before step 9
    put(run, "c/4", b"4", "checkpoint", step=4)

    def which(name):
        with make_session(write=False) as session:
            return artifacts.checkpoint(session, run.tenant_id, run.job_id, name).step

    assert (which("latest"), which("best"), which("9")) == (4, 9, 9)
    with pytest.raises(NotFoundError):
        which("5")


# -- references ------------------------------------------------------------------------------


def test_open_input_checks_the_pinned_digest(settings, put):
    run = start_run()
    row = put(run, "a", b"1")

    def opened(tenant_id=run.tenant_id, **more):
        ref = ArtifactRef(job=run.job_id, **{"artifact": "a", "sha256": row.sha256, **more})
        with make_session(write=False) as session:
            return artifacts.open_input(session, tenant_id, ref)

    assert opened() == row.storage_key
    with pytest.raises(NotFoundError):
        opened(artifact="b")
    with pytest.raises(NotFoundError):
        opened(tenant_id="ten_other")
    with pytest.raises(InvalidError):
        opened(sha256="0" * 64)


# -- garbage ---------------------------------------------------------------------------------


def test_a_deleted_job_leaves_nothing(settings, put):
    run, other = start_run(), start_run()
    for each in (run, other):
        put(each, "a")
        artifacts.put_log(each, write(settings.state_dir / "log", b"text\n"))
        with make_session() as session:
            events.record(session, each, line(type="metric", step=1, values={"a": 1, "b": 2}))
    finish(run)
    with make_session() as session:
        session.get_one(Job, run.job_id).deleted_at = utc_now()
    with pytest.raises(NotFoundError):
        find(run, "a")
    carry_out(collection.collect())
    for table in (Job, Event, Metric, Artifact):
        column = Job.id if table is Job else table.job_id
        with make_session(write=False) as session:
            assert set(session.scalars(select(column))) == {other.job_id}
    assert {info.key.split("/")[3] for info in storage.list("t")} == {other.job_id}


def files_under(root):
    """Every file on the disk of a local store, those that no listing shows included."""
    return {path for path in root.rglob("*") if path.is_file()}


def broken_off(key):
    """Leave what a write that is killed halfway leaves of ``key``."""
    target = storage.local_path(key)

    def halfway():
        yield b"x"
        (unfinished,) = target.parent.glob(f"{target.name}#*")
        os.link(unfinished, target.with_name(f"{target.name}#7"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        obstore.put(storage.get_store(), key, halfway())


def test_a_deleted_job_leaves_no_byte_on_the_disk(client, put):
    """Of two runs: files, pictures, replaced checkpoints, logs, and what a kill broke off."""
    root = storage.local_path("t")
    other = start_run()
    put(other, "kept.png", role="image")
    before = files_under(root)
    run = start_run()
    for each in (run, run := requeue(run)):
        for name in ("a.json", "figures/preview.png", "deep/er/map.npy"):
            put(each, name)
        for step in range(4):
            put(each, f"checkpoints/{step}", role="checkpoint", step=step)
        artifacts.put_log(each, write(get_settings().state_dir / "log", b"text\n"))
        broken_off(f"t/{run.tenant_id}/j/{run.job_id}/r{each.number}/half")
    finish(run)
    assert len(files_under(root)) > len(before) + 10
    assert client.delete(f"/v1/jobs/{run.job_id}").status_code == 204
    carry_out(collection.collect())
    assert files_under(root) == before


def test_sweep_removes_what_a_kill_broke_off(settings, put, monkeypatch):
    root = storage.local_path("t")
    run = start_run()
    put(run, "a")
    before = files_under(root)
    broken_off(f"t/{run.tenant_id}/j/{run.job_id}/r1/half")
    carry_out(collection.sweep())
    assert len(files_under(root)) == len(before) + 1  # it may still be written
    later = utc_now() + timedelta(hours=2)
    monkeypatch.setattr(artifacts, "utc_now", lambda: later)
    carry_out(collection.sweep())
    assert files_under(root) == before


def test_sweep_removes_what_no_row_names(settings, put, monkeypatch):
    run = start_run()
    row = put(run, "a")
    artifacts.put_log(run, write(settings.state_dir / "log", b"text\n"))
    for key in (f"t/x/j/{run.job_id}/r1/stray", "t/x/j/job_gone/r1/logs/run-1.log", "t/x/d/ds_1/c"):
        storage.put(key, settings.state_dir / "log")
    carry_out(collection.sweep())
    assert len(list(storage.list("t"))) == 5  # all are young
    later = utc_now() + timedelta(hours=2)
    monkeypatch.setattr(collection, "database_now", lambda _session: later)
    carry_out(collection.sweep())
    log_key = f"t/{run.tenant_id}/j/{run.job_id}/r1/logs/run-1.log"
    assert {info.key for info in storage.list("t")} == {row.storage_key, log_key}


# -- downloads -------------------------------------------------------------------------------

DATA = bytes(range(256)) * 5000


@pytest.fixture
def stored(client, put):
    """An artifact of 1.28 MB with its addresses."""
    run = start_run()
    row = put(run, "a/data.bin", DATA)
    by_name = f"/v1/jobs/{run.job_id}/artifacts/a/data.bin"
    return SimpleNamespace(run=run, row=row, urls=[by_name, f"/v1/artifacts/{row.id}/content"])


def test_whole_download(client, stored):
    for url in stored.urls:
        answer = client.get(url)
        assert answer.status_code == 200
        assert answer.content == DATA
        digest = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
        expected = {
            "content-length": str(len(DATA)),
            "etag": f'"{stored.row.sha256}"',
            "repr-digest": f"sha-256=:{digest}:",
            "accept-ranges": "bytes",
            "content-disposition": 'attachment; filename="data.bin"',
            "content-type": "application/octet-stream",
            "x-content-type-options": "nosniff",
            "content-security-policy": "sandbox",
        }
        assert expected.items() <= dict(answer.headers).items()


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("0-0", 0, 1),
        ("5-", 5, None),
        ("-7", -7, None),
        ("100-199", 100, 200),
        ("3-9999999999", 3, None),
    ],
)
def test_one_range(client, stored, header, start, end):
    answer = client.get(stored.urls[0], headers={"Range": f"bytes={header}"})
    assert answer.status_code == 206
    assert answer.content == DATA[start:end]
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers["content-range"])
    first, last, size = map(int, found.groups())
    assert DATA[first : last + 1] == answer.content
    assert size == len(DATA)


def test_several_ranges(client, stored):
    answer = client.get(stored.urls[0], headers={"Range": "bytes=0-9,5-14,100-101,-3"})
    assert answer.status_code == 206
    assert len(answer.content) == int(answer.headers["content-length"])
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    parts = BytesParser().parsebytes(head + answer.content).get_payload()
    bodies = [part.get_payload(decode=True) for part in parts]
    assert [len(body) for body in bodies] == [15, 2, 3]
    assert parts[0]["content-range"] == f"bytes 0-14/{len(DATA)}"
    assert DATA[:15] in answer.content
    assert DATA[-3:] in answer.content


def test_range_outside_and_ranges_to_ignore(client, stored):
    answer = client.get(stored.urls[0], headers={"Range": f"bytes={len(DATA)}-"})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(DATA)}"
    assert answer.headers["content-type"] == "application/problem+json"
    many = ",".join(f"{i}-{i}" for i in range(0, 400, 2))
    for ignored in ("lines=1-2", "bytes=", "bytes=5-2", "bytes=a-b", "bytes=-", f"bytes={many}"):
        answer = client.get(stored.urls[0], headers={"Range": ignored})
        assert (answer.status_code, len(answer.content)) == (200, len(DATA))


def test_conditions(client, stored):
    etag = f'"{stored.row.sha256}"'
    for header in (etag, f'"x", W/{etag}', "*"):
        answer = client.get(stored.urls[0], headers={"If-None-Match": header})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == etag
    assert client.get(stored.urls[0], headers={"If-None-Match": '"x"'}).status_code == 200
    for tag, status in ((etag, 206), (f"W/{etag}", 200), ('"x"', 200)):
        headers = {"If-Range": tag, "Range": "bytes=0-1"}
        assert client.get(stored.urls[0], headers=headers).status_code == status


def test_lists_and_foreign_rows(client, stored, put, make_key):
    put(stored.run, "checkpoints/step-5.st", b"5", "checkpoint", step=5)
    base = f"/v1/jobs/{stored.run.job_id}"
    listed = client.get(f"{base}/artifacts").json()["data"]
    assert [row["name"] for row in listed] == ["a/data.bin", "checkpoints/step-5.st"]
    assert client.get(listed[1]["url"]).content == b"5"
    assert client.get(f"{base}/checkpoints").json()["data"] == [listed[1]]
    assert client.get(f"{base}/checkpoints/latest").content == b"5"
    assert client.get(f"{base}/checkpoints/best").status_code == 404
    foreign = {"Authorization": f"Bearer {make_key('jobs:read', tenant_id='ten_other')}"}
    for url in (*stored.urls, f"{base}/artifacts", f"{base}/checkpoints/5"):
        assert client.get(url, headers=foreign).status_code == 404
    assert client.get(f"{base}/artifacts/%2e%2e/x").status_code == 404


def test_lost_bytes_are_not_found(client, stored):
    storage.delete(stored.row.storage_key)
    assert client.get(stored.urls[0]).status_code == 404


@pytest.mark.parametrize("size", [0, 1, 10])
def test_parse_ranges_by_brute_force(size):
    for first in range(12):
        for last in range(first, 12):
            wanted = list(range(size))[first : last + 1]
            if wanted:
                found = parse_ranges(f"bytes={first}-{last}", size)
                assert [i for start, end in found for i in range(start, end)] == wanted
            else:
                with pytest.raises(HTTPException, match="416"):
                    parse_ranges(f"bytes={first}-{last}", size)


# -- logs ------------------------------------------------------------------------------------


def test_log_while_it_grows(client, tmp_path):
    run = start_run()
    url = f"/v1/jobs/{run.job_id}/logs"
    assert client.get(url).status_code == 404
    text = "".join(f"line {i} ä\n" for i in range(20_000)).encode()
    assert artifacts.put_log(run, write(tmp_path / "log", text[:1000])) == 2.0
    assert artifacts.put_log(run, write(tmp_path / "log", text)) >= 2.0
    answer = client.get(url)
    assert answer.content == text
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    ranged = client.get(url, headers={"Range": "bytes=10-19"})
    assert (ranged.status_code, ranged.content) == (206, text[10:20])
    for lines in (1, 3, 10_000, 20_000, 50_000):
        expected = b"".join(text.splitlines(keepends=True)[-lines:])
        assert client.get(url, params={"tail": lines}).content == expected
    assert client.get(url, params={"run": 2}).status_code == 404


@pytest.mark.parametrize("text", [b"", b"\n", b"a", b"a\n", b"a\nb", b"\n\n\n", b"a\n\nb\n"])
@pytest.mark.parametrize("lines", [1, 2, 5])
def test_tail_of_short_logs(settings, text, lines):
    job_id = add_job()
    key = f"t/x/j/{job_id}/log"
    storage.put(key, write(settings.state_dir / "log", text))
    start = logs.tail_start(storage.head(key), lines)
    assert text[start:] == b"".join(text.splitlines(keepends=True)[-lines:])


def test_a_long_log_is_copied_less_often(settings, monkeypatch):
    run = start_run()
    path = write(settings.state_dir / "log", b"x")
    monkeypatch.setattr(storage, "put", lambda *_: storage.Stored(100 * 2**20, ""))
    assert artifacts.put_log(run, path) == pytest.approx(20)
