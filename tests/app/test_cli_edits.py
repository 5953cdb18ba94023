"""Commands about jobs that are there, all events, workers and webhooks, against the real API."""

import asyncio
import json
import zipfile

import pytest
from typer.testing import CliRunner

from app import cli
from app.db.session import make_session
from app.http import webhook_sender
from app.services import events, workers
from app.services.lifecycle import Outcome, finish
from app.settings import get_settings
from sextant_client import ApiError, AsyncClient
from tests.app.factories import claim, line
from tests.app.test_cli import SMALLEST, play
from tests.app.test_cli import call as call
from tests.app.test_cli import client as client
from tests.app.test_cli import database_url as database_url
from tests.app.test_cli import service as service
from tests.app.test_webhooks import receiver as receiver


def refusal(*arguments: str) -> str:
    """What a command that fails says."""
    with pytest.raises((ValueError, ApiError)) as caught:
        CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)
    return str(caught.value)


def test_edit(client, call):
    job = client.submit(SMALLEST, name="first", metadata={"team": "a", "old": "b"})
    changes = ("--name", "second", "--notes", "good", "--label", "team=c", "--label", "old=")
    assert "is changed" in call("edit", "first", *changes).output
    after = client.get(job["id"])
    assert (after["name"], after["notes"], after["metadata"]) == ("second", "good", {"team": "c"})
    call("edit", "second", "--name", "", "--notes", "")
    assert client.get(job["id"])["name"] is None
    assert "nothing to change" in refusal("edit", "@last")
    assert "write NAME=VALUE" in refusal("edit", "@last", "--label", "team")


def test_pause_and_resume(client, call):
    job = client.submit(SMALLEST)
    assert "is paused" in call("pause", "@last").output
    assert json.loads(call("show", "@last", "--json").output)["status_reason"] == "paused"
    assert "paused" in call("jobs").output
    assert "is queued" in call("resume", "@last").output
    run = claim()
    assert "is pausing" in call("pause", job["id"]).output
    with make_session() as session:
        finish(session, run, Outcome(exit_code=75, stop_reason="pause"))
    client.resume(job["id"])
    assert claim().job_id == job["id"]
    client.cancel(job["id"])
    assert "being cancelled" in refusal("pause", "@last")


def test_archive(client, call, tmp_path):
    job = client.submit(SMALLEST)
    play(claim(), tmp_path)
    target = tmp_path / "all.zip"
    assert str(target) in call("archive", "@last", "--to", str(target)).output
    with zipfile.ZipFile(target) as archive:
        assert f"{job['id']}/saliency/a/map.npy" in archive.namelist()
    assert "nothing" in refusal("archive", "nothing")


def test_compare(client, call, tmp_path):
    for seed in (0, 1):
        client.submit({**SMALLEST, "seed": seed}, name=f"seed {seed}")
        play(claim(), tmp_path)
    lines = call("compare", "seed 0", "seed 1").output.splitlines()
    assert any(line.split() == ["spec:", "seed", "0", "1"] for line in lines)
    assert any(line.split() == ["loss", "0.25", "0.25"] for line in lines)
    answer = json.loads(call("compare", "seed 0", "seed 1", "--json").output)
    assert answer["spec"] == [{"field": "seed", "values": [0, 1]}]
    assert "nothing" in refusal("compare", "seed 0", "nothing")


def test_workers_and_queues(client, call):
    with make_session() as session:
        workers.beat(
            session, "w1", host="here", boot_id="b", pid=1, queues=["default"], gpus=[], slots=2,
            slots_free=1, versions={}, draining=False,
        )  # fmt: skip
    client.submit(SMALLEST)
    output = call("workers").output
    assert "1 of 2" in output
    rows = [line.split() for line in output.splitlines()]
    assert ["default", "1", "True"] in rows
    shown = json.loads(call("workers", "--json").output)
    assert [each["id"] for each in shown["workers"]] == ["w1"]


def test_top(client, call, make_key, monkeypatch):
    assert "none" in call("top", "--once").output
    for name in ("first", "second"):
        client.submit(SMALLEST, name=name)
    run = claim()
    with make_session() as session:
        steps = [line(type="progress", step=1, total_steps=4)]
        events.record_many(session, run, steps)
    output = call("top", "--once").output
    assert "waiting: default 1" in output
    assert "served by nobody: default" in output
    rows = [each.split() for each in output.splitlines()]
    assert any(row[1:2] == ["running"] and row[-2:] == ["first", "25%"] for row in rows)
    assert [row[-2:] for row in rows[-3:]] == [
        ["first", "running"], ["second", "queued"], ["first", "queued"]
    ]  # fmt: skip
    monkeypatch.setenv("SEXTANT_KEY", make_key("jobs:read"))
    shown = json.loads(call("top", "--json").output)
    assert "workers" not in shown
    assert [job["name"] for job in shown["jobs"]] == ["second", "first"]


def test_events(client, call, tmp_path):
    job = client.submit(SMALLEST, name="mine")
    play(claim(), tmp_path)
    lines = call("events", "--status").output.splitlines()
    assert [line.split()[-1] for line in lines] == ["queued", "(starting)", "succeeded"]
    assert all(job["id"] in line and "mine" in line for line in lines)
    last = int(lines[-1].split()[0])
    assert call("events", "--after", str(last)).output == ""
    listed = [
        json.loads(line)
        for line in call("events", "--after", "0", "--json").output.split("\n")[:-1]
    ]
    assert [each["position"] for each in listed] == [*range(1, last + 1)]
    stream = client.all_events(last - 1)
    assert next(stream)["data"]["data"]["status"] == "succeeded"
    stream.close()

    async def first_page():
        async with AsyncClient(client._http.base_url, key()) as other:
            return await other.events_page(limit=1)

    assert asyncio.run(first_page())["next_after"] == 1


def key() -> str:
    return (get_settings().state_dir / "admin.key").read_text().strip()


def test_webhooks(client, call, receiver, monkeypatch):
    monkeypatch.setattr(webhook_sender, "EVERY_S", 3600)
    monkeypatch.setenv("SEXTANT_WEBHOOK_PRIVATE", "true")
    get_settings.cache_clear()
    url = f"http://localhost:{receiver.server_port}/hook"
    made = call("webhooks", "create", url).output.split()
    assert made[0].startswith("wh_")
    assert made[-1].startswith("whsec_")
    assert call("webhooks", "secret").output.startswith("whsec_")
    assert "works" in call("webhooks", "list").output
    assert "answered 204" in call("webhooks", "test", made[0]).output
    receiver.statuses.append(500)
    failed = CliRunner().invoke(cli.app, ["webhooks", "test", made[0]])
    assert (failed.exit_code, "500" in failed.output) == (1, True)
    assert "failing since" in call("webhooks", "list").output
    client.submit(SMALLEST)
    claim()
    message = json.loads(call("webhooks", "deliveries", made[0], "--json").output)[0]
    assert message["type"] == "job.started"
    assert "next try" in call("webhooks", "deliveries", made[0]).output
    assert "is sent again" in call("webhooks", "resend", made[0], message["id"]).output
    call("webhooks", "delete", made[0])
    assert json.loads(call("webhooks", "list", "--json").output) == []
    assert "no webhook" in refusal("webhooks", "test", made[0])
