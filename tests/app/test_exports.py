"""Jobs written for other tools, read back by these tools themselves."""

import io
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from app.db.session import make_session
from app.services import artifacts, datasets, events
from sextant_client import ApiError
from sextant_client.exports import export, mlflow
from sextant_client.exports.event_files import EventFile
from tests.app.factories import claim, finish, line, write
from tests.app.mlflow_contract import Contract
from tests.app.test_cli import SMALLEST
from tests.app.test_cli import call as call
from tests.app.test_cli import client as client
from tests.app.test_cli import database_url as database_url
from tests.app.test_cli import service as service
from tests.service import free_port, wait_until

LOSS = [0.1 + 1 / step for step in range(1, 6)]
BEGAN_S = 1.7e9


@pytest.fixture
def run(client, tmp_path):
    """A run of a job that has reported two metrics and left a picture and a report."""
    job = client.submit(SMALLEST, name="mine / 1", metadata={"team": "a"})
    run = claim()
    lines = [
        line(type="metric", step=n, at=BEGAN_S + n, values={"loss": value, "top 5 %": n})
        for n, value in enumerate(LOSS, 1)
    ]
    with make_session() as session:
        events.record_many(session, run, lines)
    png = io.BytesIO()
    Image.new("RGB", (6, 4), "red").save(png, "png")
    artifacts.store(run, write(tmp_path / "map.png", png.getvalue()), "image", "maps/a_b.png")
    artifacts.store(run, write(tmp_path / "report.json", b"{}"), "report", "report.json")
    assert run.job_id == job["id"]
    return run


def read_events(folder: Path):
    """What TensorBoard itself finds in a folder."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulators.EventAccumulator(str(folder), {"scalars": 0, "images": 0, "tensors": 0})
    return read.Reload()


def test_tensorboard_reads_numbers_pictures_and_the_spec(client, call, run, tmp_path):
    call("export", run.job_id, "--to", f"tensorboard:{tmp_path / 'runs'}")
    with make_session() as session:
        events.record_many(
            session, run, [line(type="metric", step=6, at=BEGAN_S + 6, values={"loss": 0.5})]
        )
    finish(run)
    client.edit(run.job_id, name="renamed")
    assert export(client, run.job_id, f"tensorboard:{tmp_path / 'runs'}").startswith(str(tmp_path))
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name == f"mine-1-{run.job_id[-8:]}"
    assert len([*folder.iterdir()]) == 1
    read = read_events(folder)
    assert set(read.Tags()["scalars"]) == {"loss", "top 5 %"}
    points = read.Scalars("loss")
    assert [point.step for point in points] == [1, 2, 3, 4, 5, 6]
    assert [point.value for point in points] == pytest.approx([*LOSS, 0.5])
    assert [point.wall_time for point in points] == [BEGAN_S + n for n in range(1, 7)]
    (picture,) = read.Images("maps/a_b")
    assert (picture.width, picture.height) == (6, 4)
    assert Image.open(io.BytesIO(picture.encoded_image_string)).getpixel((0, 0)) == (255, 0, 0)
    (spec,) = read.Tensors("spec")
    assert SMALLEST["kind"] in spec.tensor_proto.string_val[0].decode()


def test_event_files_hold_numbers_beyond_single_precision(tmp_path):
    with closing(EventFile(tmp_path / "events.out.tfevents.1", 1.0)) as file:
        for step, value in enumerate((1e300, -1e300, float("nan"), 1e-300)):
            file.scalar("a", value, step + 2**40, 2.0)
        with pytest.raises(ValueError, match="is no PNG"):
            file.picture("p", b"GIF89a", 0, 1.0)
    read = read_events(tmp_path).Scalars("a")
    assert [str(point.value) for point in read] == ["inf", "-inf", "nan", "0.0"]
    assert read[-1].step == 2**40 + 3


@pytest.fixture(params=["contract", pytest.param("mlflow", marks=pytest.mark.slow)])
def tracking(request, tmp_path) -> Iterator[str]:
    """host:port of a tracking server."""
    if request.param == "contract":
        server = Contract()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
        server.server_close()
        return
    command = os.environ.get("TEST_MLFLOW") or shutil.which("mlflow")
    if command is None:
        pytest.skip("NOT TESTED against MLflow itself: name its command in TEST_MLFLOW")
    address = f"127.0.0.1:{free_port()}"
    started = subprocess.Popen(
        [
            *(command, "server", "--host", "127.0.0.1", "--port", address.rpartition(":")[2]),
            *("--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--workers", "1"),
            *("--artifacts-destination", str(tmp_path / "files")),
        ],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: answers(address), 120, "MLflow answers")
        yield address
    finally:
        os.killpg(started.pid, 15)
        started.wait()


def answers(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/health").is_success
    except httpx.TransportError:
        return False


def test_mlflow_has_one_run_however_often_it_is_sent(client, call, run, tracking):
    target = f"mlflow+http://{tracking}?experiment=digits"
    call("export", run.job_id, "--to", target)
    with make_session() as session:
        events.record_many(
            session, run, [line(type="metric", step=6, at=BEGAN_S + 6, values={"loss": 0.5})]
        )
    finish(run)
    client.edit(run.job_id, notes="good", name="renamed")
    sent = export(client, run.job_id, target)
    assert export(client, run.job_id, target) == sent
    run_id = sent.rpartition("/")[2]
    with httpx.Client(base_url=f"http://{tracking}/api/2.0") as http:
        asked = {"run_id": run_id, "metric_key": "loss", "max_results": 100}
        points = http.get("/mlflow/metrics/get-history", params=asked).json()["metrics"]
        found = http.get("/mlflow/runs/get", params={"run_id": run_id}).json()["run"]
        folder = found["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
        file = http.get(f"/mlflow-artifacts/artifacts/{folder}/report.json")
    assert sorted((int(p["step"]), p["value"], int(p["timestamp"])) for p in points) == [
        (n, value, round((BEGAN_S + n) * 1000)) for n, value in enumerate([*LOSS, 0.5], 1)
    ]
    assert (found["info"]["status"], found["info"]["run_name"]) == ("FINISHED", "renamed")
    tags, params = (
        {t["key"]: t["value"] for t in found["data"][name]} for name in ("tags", "params")
    )
    assert tags["sextant.job_id"] == run.job_id
    assert (tags["sextant.label.team"], tags["mlflow.note.content"]) == ("a", "good")
    resolved = client.get(run.job_id)["resolved_spec"]
    assert params == {k: str(v) for k, v in mlflow.flattened(resolved) if v is not None}
    assert file.content == b"{}"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("wandb:x", "cannot export to 'wandb:x'; give tensorboard:FOLDER"),
        ("tensorboard:", "give tensorboard:FOLDER"),
        ("mlflow:///runs", "give tensorboard:FOLDER"),
        ("mlflow+http://127.0.0.1:9?run=1", "it takes experiment=NAME alone"),
        ("mlflow://127.0.0.1:9", "no MLflow answers at https://127.0.0.1:9: .*mlflow[+]http://"),
        ("hf:{folder}", "has no weights.safetensors, so no net to export; its files: none yet"),
    ],
)
def test_targets_that_cannot_be(client, tmp_path, target, words):
    job = client.submit(SMALLEST)
    with pytest.raises(ValueError, match=words):
        export(client, job["id"], target.format(folder=tmp_path / "net"))
    assert not [*tmp_path.glob("net*")]


def test_a_dataset_as_a_folder_of_the_hub(client, call, tmp_path):
    """Built in, or uploaded; what cannot be written leaves nothing."""
    call("datasets", "export", "digits", str(tmp_path / "digits"))
    assert (tmp_path / "digits" / "data" / "test-00000-of-00001.parquet").is_file()
    with pytest.raises(ValueError, match="is there already; name a folder that is not"):
        call("datasets", "export", "digits", str(tmp_path / "digits"))
    with pytest.raises(ValueError, match="cannot export photos: 'photos' is no built-in set"):
        call("datasets", "export", "photos", str(tmp_path / "photos"))
    content = tmp_path / "mine.npz"
    np.savez(content, images=np.zeros((9, 4, 4, 1), np.uint8), labels=np.arange(9) % 2)
    checked = threading.Thread(target=check_upload)
    checked.start()
    client.upload("mine", [content])
    checked.join()
    assert client.download_dataset("mine", tmp_path / "copy").read_bytes() == content.read_bytes()
    call("datasets", "export", "mine", str(tmp_path / "mine"))
    assert "# mine" in (tmp_path / "mine" / "README.md").read_text()
    assert not [*tmp_path.glob(".*")]
    with pytest.raises(ApiError, match="built in"):
        client.download_dataset("digits", tmp_path / "copy")


def check_upload() -> None:
    """What a worker does with an upload."""
    row = wait_until(check_claimed, 30, "an upload waits for its check")
    with make_session() as session:
        datasets.finish_check(session, row, "w1", {"train": 7, "test": 2, "classes": 2})


def check_claimed():
    with make_session() as session:
        return datasets.claim_check(session, "w1")


def test_a_net_as_a_folder_of_the_hub(client, call, tmp_path):
    job = client.submit(SMALLEST)
    run = claim()
    for name, role, content in (
        ("weights.safetensors", "weights", b"w"),
        ("model_card.md", "report", b"# card"),
        ("net.onnx", "program", b"o"),
    ):
        artifacts.store(run, write(tmp_path / "file", content), role, name)
    finish(run)
    for _ in range(2):
        call("export", job["id"], "--to", f"hf:{tmp_path / 'net'}")
    there = {path.name: path.read_bytes() for path in (tmp_path / "net").iterdir()}
    assert SMALLEST["kind"].encode() in there.pop("config.json")
    assert there == {"model.safetensors": b"w", "README.md": b"# card", "net.onnx": b"o"}
    other = client.submit(SMALLEST)
    run = claim()
    artifacts.store(run, write(tmp_path / "file", b"v"), "weights", "weights.safetensors")
    finish(run)
    call("export", other["id"], "--to", f"hf:{tmp_path / 'net'}")
    names = {path.name for path in (tmp_path / "net").iterdir()}
    assert names == {"model.safetensors", "config.json"}  # none of another net
