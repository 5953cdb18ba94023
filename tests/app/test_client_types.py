"""The client tells a type checker what each call gives, with both clients, and never Any."""

import subprocess
import sys
from pathlib import Path

import pytest

from sextant_client import AsyncClient, AsyncJob, Client, Job
from sextant_client.files import AsyncFile, AsyncFiles, File, Files
from tests.contract import client_types

ROOT = Path(__file__).parents[2]
# what each call gives; Job stands for AsyncJob with AsyncClient
CLIENT = {
    "submit({'kind': 'lcw.sample'}, name='a', resources={'cpus': 1})": "Job",
    "dry_run(LcwSample(model=Bundled(pretrained='digits')), priority=3)": "answers.DryRun",
    "get('job')": "Job",
    "wait('job', on_event=see_event, on_progress=see_job, timeout_s=3)": "Job",
    "events_page(3, wait_s=1.5, type='status')": "answers.FeedPage",
    "metrics('job', names=['loss'])": "Metrics",
    "metrics('job', format='csv')": "str",
    "logs('job', tail=3)": "str",
    "artifacts('job')": "list[answers.ArtifactRead]",
    "download('job', 'weights', Path())": "Path",
    "cancel('job', mode='kill')": "Job",
    "pause('job')": "Job",
    "resume('job')": "Job",
    "retry('job', start=100, overrides={'epochs': 3})": "Job",
    "edit('job', name='b', metadata={'team': 'x'})": "Job",
    "archive('job', Path())": "Path",
    "compare(['job', 'other'])": "answers.ComparisonRead",
    "delete('job')": "None",
    "upload('dem', [Path()], options={'cell_size_m': 2.0})": "answers.DatasetRead",
    "dataset('dem')": "answers.DatasetRead",
    "download_dataset('dem', Path())": "Path",
    "delete_dataset('dem')": "None",
    "kinds()": "list[answers.KindRead]",
    "kind('lcw.sample')": "answers.KindRead",
    "schema('lcw.sample')": "dict[str, Any]",
    "keys()": "list[answers.KeyRead]",
    "create_key('a', ['jobs:read'])": "answers.KeyCreated",
    "revoke_key('key')": "None",
    "usage()": "answers.UsageRead",
    "workers()": "list[answers.LiveWorker]",
    "queues()": "list[answers.QueueRead]",
    "ready()": "answers.Ready",
    "create_model('faces')": "answers.ModelRead",
    "get_model('faces')": "answers.ModelRead",
    "edit_model('faces', description='x')": "answers.ModelRead",
    "delete_model('faces')": "None",
    "register('faces', 'job', aliases=['live'])": "answers.ModelVersionRead",
    "get_version('faces', 1)": "answers.ModelVersionRead",
    "delete_version('faces', 1)": "None",
    "move_alias('faces', 'live', 1)": "answers.ModelRead",
    "delete_alias('faces', 'live')": "None",
    "predict('faces@live', [b''])": "answers.PredictionRead | answers.JobRead",
    "pipeline([{'id': 'a', 'spec': {'kind': 'lcw.sample'}}])": "dict[str, answers.JobRead]",
    "sweep({'job': {'spec': {}}, 'parameters': {}, 'objective': {'metric': 'loss'}})": (
        "answers.SweepDetail"
    ),
    "get_sweep('sweep')": "answers.SweepDetail",
    "wait_sweep('sweep', on_change=see_sweep)": "answers.SweepDetail",
    "sweep_report('sweep', 'csv')": "str",
    "cancel_sweep('sweep')": "answers.SweepDetail",
    "delete_sweep('sweep')": "None",
    "create_webhook('https://example.org')": "answers.WebhookCreated",
    "webhooks()": "list[answers.WebhookRead]",
    "webhook_secret()": "answers.WebhookSecret",
    "test_webhook('hook')": "answers.WebhookTestRead",
    "resend('hook', 'message')": "answers.DeliveryRead",
    "delete_webhook('hook')": "None",
}
STREAMS = {
    "jobs(3, status='running', kind='lcw.sample')": "Job",
    "events('job')": "StreamedEvent",
    "all_events(3, type='status')": "StreamedEvent",
    "follow_logs('job')": "StreamedEvent",
    "datasets()": "answers.DatasetRead",
    "models(3)": "answers.ModelRead",
    "versions('faces')": "answers.ModelVersionRead",
    "sweeps(status='running')": "answers.SweepRead",
    "deliveries('hook')": "answers.DeliveryRead",
}
JOB = {
    "refresh()": "Job",
    "wait(bar=False, timeout_s=3)": "Job",
    "cancel(mode='kill')": "Job",
    "metrics(names='loss', max_points=10)": "Metrics",
    "logs(tail=3)": "str",
    "show()": "None",
}
FILE = {"save(Path(), overwrite=True)": "Path", "load()": "Any"}  # what a file holds, it alone says
FILES = {"list()": "list[answers.ArtifactRead]"}
PLAIN = {
    "job.id": "str",
    "job.kind": "str",
    "job.name": "str | None",
    "job.status": "answers.JobStatus",
    "job.result": "dict[str, Any]",
    "job.error": "answers.JobError | None",
    "job.share": "float | None",
    "job.fields['started_at']": "str | None",
    "job.fields['limits']['max_runs']": "int",
    "numbers.series['loss'][0]['value']": "float | None",
    "numbers.columns()['loss']": "list[float | None]",
    "numbers.to_frame()": "Any",  # of pandas or polars, which the client does not depend on
}
HEAD = """
from pathlib import Path
from typing import Any, assert_type

from models.lcw.spec import Bundled, LcwSample
from sextant_client import AsyncClient, AsyncJob, Client, Job, Metrics, answers
from sextant_client.files import AsyncFile, AsyncFiles, File, Files
from sextant_client.stream import StreamedEvent


def see_event(event: StreamedEvent) -> None: ...
def see_job(job: answers.JobRead) -> None: ...
def see_sweep(sweep: answers.SweepDetail) -> None: ...
"""
WRONG = {
    "client.get(3)": "invalid-argument-type",
    "client.submit({}, name=3)": "invalid-argument-type",
    "client.jobs(status='done')": "invalid-argument-type",
    "client.get('job').fields['begun_at']": "invalid-typed-dict-key",
    "client.metrics('job', format='xml')": "no-matching-overload",
    "assert_type(client.get('job')['result'], dict[str, Any])": "type-assertion-failure",
}


def example() -> str:
    """A program that uses all calls of both clients and states what they give."""
    lines = ["def blocking(client: Client, job: Job, files: Files, file: File, numbers: Metrics):"]
    lines += _calls("", "for each in {}: assert_type(each, {})")
    lines += [f"    assert_type({each}, {kind})" for each, kind in PLAIN.items()]
    lines += ["    assert_type(job.artifacts, Files)", "    assert_type(files['a'], File)"]
    lines += ["async def awaiting(", "    client: AsyncClient, job: AsyncJob, files: AsyncFiles,"]
    lines += ["    file: AsyncFile,", "):"]
    lines += _calls("await ", "async for each in {}: assert_type(each, {})", "Async")
    lines += [
        "    assert_type(job.artifacts, AsyncFiles)",
        "    assert_type(files['a'], AsyncFile)",
    ]
    return HEAD + "\n".join(lines) + "\n"


def _calls(wait: str, loop: str, twin: str = "") -> list[str]:
    def kind(name: str) -> str:
        return f"{twin}Job" if name == "Job" else name

    owners = {"client": CLIENT, "job": JOB, "files": FILES, "file": FILE}
    lines = [
        f"    assert_type({wait}{owner}.{call}, {kind(gives)})"
        for owner, calls in owners.items()
        for call, gives in calls.items()
    ]
    return lines + [
        "    " + loop.format(f"client.{call}", kind(gives)) for call, gives in STREAMS.items()
    ]


def check(folder: Path, text: str) -> str:
    """What the type checker says of a program."""
    file = folder / "example.py"
    file.write_text(text)
    paths = ["--extra-search-path", str(ROOT / "app/client"), "--extra-search-path", str(ROOT)]
    paths += ["--python", sys.prefix]
    command = [Path(sys.executable).with_name("ty"), "check", "--output-format", "concise"]
    done = subprocess.run(
        [*command, *paths, str(file)], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_every_call_gives_what_it_says(tmp_path):
    assert "All checks passed" in check(tmp_path, example())


def test_the_checker_sees_what_is_wrong(tmp_path):
    lines = [f"    {statement}" for statement in WRONG]
    said = check(tmp_path, "\n".join([HEAD, "def wrong(client: Client):", *lines]))
    for code in WRONG.values():
        assert f"error[{code}]" in said
    assert f"Found {len(WRONG)} diagnostics" in said


@pytest.mark.parametrize(
    ("kinds", "tables"),
    [
        ((Client, AsyncClient), (CLIENT, STREAMS)),
        ((Job, AsyncJob), (JOB,)),
        ((Files, AsyncFiles), (FILES,)),
        ((File, AsyncFile), (FILE,)),
    ],
)
def test_no_call_is_left_out(kinds, tables):
    named = {call.partition("(")[0] for table in tables for call in table}
    for kind in kinds:
        inherited = {"close", *(dir(dict) if issubclass(kind, dict) else ())}
        own = {name for name in dir(kind) if callable(getattr(kind, name)) and name[0] != "_"}
        assert own - inherited == named


@pytest.mark.parametrize("name", client_types.FILES)
def test_types_are_those_of_the_service(name):
    written = (client_types.CLIENT / name).read_text()
    assert written == client_types.FILES[name](), "run python -m tests.contract.client_types"
