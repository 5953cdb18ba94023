"""Live streams over a real server: order, resumption, end, limits, wake-up."""

import asyncio
import json
import threading
import time

import httpx
import pytest

from app import queue
from app.db.session import make_session
from app.db.tables import ApiKey, Tenant, utc_now
from app.http import event_streams as streams
from app.services import artifacts, events, keys, lifecycle
from app.settings import get_settings
from tests.app.factories import add_job, claim, events_of, finish, line, start_run, write
from tests.service import connect, serving


@pytest.fixture
def client(settings):
    """A client of a real server, with an admin key."""
    with make_session() as session:
        key = keys.ensure_admin_key(session)
    with serving() as url, connect(url) as found:
        found.headers["Authorization"] = f"Bearer {key}"
        yield found


def read(client, path, headers=(), **params):
    """Events of a stream as they come: (id, event, data)."""
    headers = {"Accept": "text/event-stream", **dict(headers)}
    with client.stream("GET", path, params=params, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"
        fields = {}
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
            elif "event" in fields:
                yield fields.get("id"), fields["event"], json.loads(fields["data"])
                fields = {}


def end_key(token, ended):
    """Make a key invalid in one of the ways there are."""
    with make_session() as session:
        key = session.get_one(ApiKey, f"key_{token.split('_')[1]}")
        row = session.get_one(Tenant, key.tenant_id) if ended == "disabled_at" else key
        setattr(row, ended, utc_now())


def later(seconds, call, *args):
    thread = threading.Timer(seconds, call, args)
    thread.start()
    return thread


@pytest.mark.parametrize("ended", ["revoked_at", "expires_at", "disabled_at"])
@pytest.mark.parametrize(("part", "query"), [("events", {}), ("logs", {"follow": True})])
def test_the_streams_of_a_key_that_is_no_longer_valid_end_within_a_second(
    client, make_key, ended, part, query
):
    run = start_run()
    artifacts.put_log(run, write(get_settings().state_dir / "log", b"text\n"))
    token = make_key("jobs:read")
    ended_at = []

    def end():
        end_key(token, ended)
        ended_at.append(time.monotonic())

    headers = {"Authorization": f"Bearer {token}"}
    stream = read(client, f"/v1/jobs/{run.job_id}/{part}", headers, **query)
    told = [next(stream)]  # it is open
    worker = later(0.1, end)
    told += stream
    assert time.monotonic() - ended_at[0] < 5  # a loaded machine; the next ping is after 15 s
    assert "end" not in [kind for _, kind, _ in told]
    worker.join()


@pytest.mark.parametrize("ended", ["revoked_at", "expires_at", "disabled_at"])
def test_a_long_poll_of_a_key_that_is_no_longer_valid_ends_within_a_second(client, make_key, ended):
    job_id = start_run().job_id
    token = make_key("jobs:read")
    began = time.monotonic()
    worker = later(0.1, end_key, token, ended)
    headers = {"Authorization": f"Bearer {token}"}
    answer = client.get(f"/v1/jobs/{job_id}?wait_s=15", headers=headers)
    assert time.monotonic() - began < 5
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    worker.join()


def test_what_a_key_opens_after_its_tenant_was_enabled_again_stays_open(client, make_key):
    run = start_run()
    token = make_key("jobs:read")
    headers = {"Authorization": f"Bearer {token}"}
    stream = read(client, f"/v1/jobs/{run.job_id}/events", headers)
    next(stream)
    end_key(token, "disabled_at")
    assert [kind for _, kind, _ in stream if kind == "end"] == []
    with make_session() as session:
        session.get_one(Tenant, keys.DEFAULT_TENANT).disabled_at = None
    time.sleep(1.1)  # a key is looked up once a second
    worker = later(1.2, finish, run)
    *_, end = read(client, f"/v1/jobs/{run.job_id}/events", headers)
    assert end == (None, "end", {"status": "succeeded"})
    worker.join()


def test_a_stream_tells_all_in_order_and_ends(client):
    run = start_run()
    path = f"/v1/jobs/{run.job_id}/events"

    def work():
        for step in range(20):
            warning = line(type="event", event="warning", code="c", message=str(step))
            with make_session() as session:
                events.record(session, run, warning)
            time.sleep(0.01)
        finish(run)

    worker = later(0.3, work)
    *found, end = read(client, path)
    worker.join()
    rows = events_of(run.job_id)
    assert [(int(i), kind) for i, kind, _ in found] == [(row.seq, row.type) for row in rows]
    assert [data["message"] for _, kind, data in found if kind == "warning"] == [
        str(step) for step in range(20)
    ]
    assert found[-1][2]["status"] == "succeeded"
    assert end == (None, "end", {"status": "succeeded"})
    # and again from the middle, by header and by query; the header wins
    middle = found[9:]
    assert [*read(client, path, after=9)][:-1] == middle
    assert [*read(client, path, {"Last-Event-ID": "9"}, after=2)][:-1] == middle
    assert [*read(client, path, after=10**6)] == [end]


def test_json_pages_without_the_accept_header(client):
    run = start_run()
    finish(run)
    url = f"/v1/jobs/{run.job_id}/events"
    page = client.get(url, params={"limit": 2}).json()
    assert page["has_more"]
    rest = client.get(url, params={"after": page["next_after"]}).json()
    found = [row["seq"] for row in page["data"] + rest["data"]]
    assert found == [row.seq for row in events_of(run.job_id)]
    assert client.get(url, params={"after": -1}).status_code == 422
    assert client.get("/v1/jobs/job_" + "0" * 32 + "/events").status_code == 404


def test_a_stream_of_a_foreign_job_is_not_found(client):
    job_id = add_job(tenant_id="ten_other")
    answer = client.get(f"/v1/jobs/{job_id}/events", headers={"Accept": "text/event-stream"})
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_deleted_job_ends_its_stream(client):
    run = start_run()
    finish(run)
    with make_session(write=False) as session:
        assert events.updates(session, run.tenant_id, run.job_id, 0).final == "succeeded"
    assert client.delete(f"/v1/jobs/{run.job_id}").status_code == 204
    with make_session(write=False) as session:
        assert events.updates(session, run.tenant_id, run.job_id, 0).final == "deleted"
        assert events.updates(session, "ten_other", run.job_id, 0) == ([], False, "deleted")


def test_long_history_comes_in_steps(client, monkeypatch):
    monkeypatch.setattr(events, "UPDATE_ROWS", 7)
    monkeypatch.setattr(streams, "CHUNK_BYTES", 500)
    run = start_run()
    with make_session() as session:
        for number in range(100):
            lifecycle.add_event(session, run.job_id, "log", {"n": number, "text": "x" * 90}, run)
    finish(run)
    found = [*read(client, f"/v1/jobs/{run.job_id}/events")]
    assert [data["n"] for _, kind, data in found if kind == "log"] == [*range(100)]
    assert found[-1][1] == "end"


def test_keep_alive(client, monkeypatch):
    monkeypatch.setattr(streams, "PING_S", 0.1)
    run = start_run()
    headers = {"Accept": "text/event-stream"}
    url = f"/v1/jobs/{run.job_id}/events"
    with client.stream("GET", url, params={"after": 10**6}, headers=headers) as answer:
        lines = answer.iter_lines()
        assert [next(lines) for _ in range(4)] == [": ping", "", ": ping", ""]


def test_limits(client, monkeypatch):
    monkeypatch.setattr(streams, "MAX_STREAMS_PER_KEY", 2)
    run = start_run()
    url, headers = f"/v1/jobs/{run.job_id}/events", {"Accept": "text/event-stream"}
    first, second = (read(client, url) for _ in range(2))
    next(first), next(second)
    answer = client.get(url, headers=headers)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "5"
    assert answer.headers["content-type"] == "application/problem+json"
    monkeypatch.setattr(streams, "MAX_STREAMS", 2)
    assert client.get(url, headers=headers).status_code == 503
    first.close()
    deadline = time.monotonic() + 5
    while streams.open_streams() > 1:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    next(read(client, url))
    second.close()


def test_a_slow_reader_is_dropped(client, monkeypatch):
    monkeypatch.setattr(streams, "SEND_S", 0.3)
    run = start_run()
    with make_session() as session:
        for _ in range(200):
            lifecycle.add_event(session, run.job_id, "log", {"text": "x" * 60_000}, run)
    stream = read(client, f"/v1/jobs/{run.job_id}/events")
    next(stream)
    assert streams.open_streams() == 1
    deadline = time.monotonic() + 8
    while streams.open_streams():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(httpx.RemoteProtocolError):
        list(stream)


def test_open_streams_end_with_the_server(settings):
    with make_session() as session:
        key = keys.ensure_admin_key(session)
    run = start_run()
    with serving() as url:
        client = connect(url, Authorization=f"Bearer {key}")
        stream = read(client, f"/v1/jobs/{run.job_id}/events")
        next(stream)
        started = time.monotonic()
    assert time.monotonic() - started < 5
    client.close()
    assert streams.open_streams() == 0


def test_a_log_is_followed(client, tmp_path):
    run = start_run()
    path = f"/v1/jobs/{run.job_id}/logs"
    text = "".join(f"line {i} ä\n" for i in range(3000)) + "without end"

    def work():
        for size in (5, 1000, 1001, 20_000, len(text)):
            artifacts.put_log(run, write(tmp_path / "log", text[:size].encode()))
            time.sleep(0.1)
        finish(run)

    worker = later(0.2, work)
    *found, end = read(client, path, follow=True)
    worker.join()
    assert "".join(data["text"] for _, _, data in found) == text
    assert all(data["text"].endswith("\n") for _, _, data in found[:-1])
    assert {kind for _, kind, _ in found} == {"log"}
    assert end == (None, "end", {"run": 1})
    offset, rest = found[0][0], "".join(data["text"] for _, _, data in found[1:])
    again = read(client, path, {"Last-Event-ID": offset}, follow=True)
    assert "".join(data.get("text", "") for _, _, data in again) == rest
    tail = next(read(client, path, follow=True, tail=2))[2]["text"]
    assert tail == "line 2999 ä\nwithout end"


def test_a_log_is_followed_from_before_its_run(client, tmp_path):
    job_id = add_job()

    def work():
        run = claim()
        artifacts.put_log(run, write(tmp_path / "log", b"hello"))
        finish(run)

    worker = later(0.3, work)
    found = [*read(client, f"/v1/jobs/{job_id}/logs", follow=True)]
    worker.join()
    assert [data for _, _, data in found] == [{"text": "hello"}, {"run": 1}]


# -- waking ----------------------------------------------------------------------------------


def waited(job_id, act):
    """Seconds that :func:`wait_for_update` takes when ``act`` happens after 0.2 s."""

    async def run():
        streams.start()
        try:
            async with asyncio.timeout(10):
                await streams.wait_for_update("key_none", job_id, 0.01)  # everything is connected
                await asyncio.sleep(1.2)
                timer = later(0.2, act)
                started = time.monotonic()
                await streams.wait_for_update("key_none", job_id, 5)
                found = time.monotonic() - started
                timer.join()
                return found
        finally:
            streams.stop()

    return asyncio.run(run())


def test_news_without_a_broker(settings):
    run = start_run()
    assert waited(run.job_id, lambda: finish(run)) < 4  # without news 5


def test_no_news(settings):
    run = start_run()

    async def wait():
        streams.start()
        with streams._hub().watch(run.job_id) as changed:
            await asyncio.sleep(1.5)
            assert changed.is_set()  # what is seen first may have just happened
            changed.clear()
            await asyncio.sleep(1.5)
            assert not changed.is_set()
        streams.stop()

    asyncio.run(wait())


@pytest.fixture
def broker(settings, valkey_url, monkeypatch):
    """Settings with a broker; its clients are made anew."""
    monkeypatch.setenv("SEXTANT_BROKER_URL", valkey_url)
    for cached in (get_settings, queue.make_redis):
        cached.cache_clear()
    yield
    queue.make_redis().close()
    queue.make_redis.cache_clear()


def test_an_event_is_seen_within_300_ms(broker, client):
    run = start_run()
    delays = []

    def work():
        for number in range(30):
            with make_session() as session:
                warning = line(type="event", event="warning", sent_at=time.time(), n=number)
                events.record(session, run, warning)
            time.sleep(0.05)
        finish(run)

    worker = later(1.0, work)
    for _, kind, data in read(client, f"/v1/jobs/{run.job_id}/events"):
        if kind == "warning":
            delays.append(time.time() - data["sent_at"])
    worker.join()
    assert len(delays) == 30
    assert sorted(delays)[28] < 0.3
