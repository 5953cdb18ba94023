"""Maps of a range of images: one chunked array, in bounded memory, the same after a kill."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from pydantic import ValidationError

from models.core.errors import DataError, SpecError
from models.core.run import Run, StoppedError
from models.data import samples
from models.saliency import map_range
from models.saliency.map import map_images
from models.saliency.net import images as inputs
from models.saliency.net import load
from models.saliency.net.space import Space
from models.saliency.spec.evaluate import SaliencyEvaluate
from models.saliency.spec.map import SaliencyMap
from tests.models.saliency.saliency_nets import conv_net

FIELDS = {
    "kind": "saliency.map",
    "model": {"job": "job_" + "0" * 32, "artifact": "weights.safetensors"},
    "images": {"dataset": "digits", "first": 3, "count": 20},
    "target": "topk:2",
    "methods": [
        {"id": "occlusion", "window": 12, "stride": 12},
        {"id": "rise", "masks": 20, "estimator": "slope"},
    ],
    "baselines": [{"id": "black"}, {"id": "uniform_noise", "draws": 2}],
    "batch": 8,
    "outputs": [],
}
CHUNK = 4 * 2 * 24 * 24 * 4 * 3  # bytes of three images: two methods, two baselines, two classes


def subject(net: torch.nn.Module | None = None) -> load.Subject:
    return load.Subject(
        net or conv_net(10), list("abcdefghij"), Space([0.5] * 3, [0.25] * 3), (24, 24), 3, 1.0
    )


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A small net in place of a checkpoint, and chunks of three images."""
    monkeypatch.setattr(load, "load_subject", lambda *_: subject())
    monkeypatch.setattr(map_range, "CHUNK_BYTES", CHUNK)


@pytest.fixture
def explain(tmp_path, monkeypatch):
    """Run a spec in a new folder, from a checkpoint where one is given."""

    def explain(name: str, resume: Path | None = None, stop_at: int | None = None, **fields):
        folder = tmp_path / name
        (folder / "resume").mkdir(parents=True)
        if resume is not None:
            shutil.copy(resume, folder / "resume")
        with (folder / "events.jsonl").open("w") as stream:
            run = Run(folder, stream, checkpoint_interval_s=1e9)
            if stop_at is not None:
                stop_after_images(monkeypatch, run, stop_at)
            map_images(SaliencyMap.model_validate({**FIELDS, **fields}), run)
        return folder

    return explain


def stop_after_images(monkeypatch, run: Run, images: int) -> None:
    """Ask for a stop when so many images are done and the next one has begun."""
    explain_one = map_range.RangeExplainer._explain

    def explain(self, position, *rest):
        if position == images:
            run.request_stop("test")
        return explain_one(self, position, *rest)

    monkeypatch.setattr(map_range.RangeExplainer, "_explain", explain)


def events(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def stored(folder: Path) -> np.ndarray:
    return zarr.open(folder / "maps.zarr", mode="r")["maps"][:]


def test_the_array_holds_the_maps_of_a_list_of_the_same_images(explain):
    folder = explain("range", target=[1, 4])
    listed = [{"dataset": "digits", "index": 3 + position} for position in range(20)]
    alone = explain("list", target=[1, 4], images=listed)
    maps = stored(folder)
    assert maps.shape == (20, 4, 2, 24, 24)
    report = json.loads((alone / "report.json").read_text())
    cells = json.loads((folder / "report.json").read_text())["maps"]
    names = [entry["image"] for entry in report["images"]]
    for entry in report["maps"]:
        described = {"method": entry["method"], "baseline": entry["baseline"]}
        k = [1, 4].index(entry["class"])
        np.testing.assert_array_equal(
            maps[names.index(entry["image"]), cells.index(described), k],
            np.load(alone / entry["artifact"]),
        )


def test_the_table_and_the_report_say_what_the_list_does(explain):
    folder = explain("range")
    rows = list(csv.DictReader((folder / "images.csv").read_text().splitlines()))
    assert len(rows) == 20 * 2
    assert [int(row["index"]) for row in rows[::2]] == list(range(3, 23))
    labels = samples.images("digits").test.labels[3:23]
    assert [int(row["label"]) for row in rows[::2]] == labels.tolist()
    report = json.loads((folder / "report.json").read_text())
    assert report["count"] == 20
    assert report["number_of_maps"] == 20 * 4 * 2
    for column in ("score", "score_of_black", "largest_probability_of_uniform_noise"):
        mean = np.mean([float(row[column]) for row in rows])
        assert report["means"][column] == pytest.approx(mean, rel=1e-12)
    progress = [event for event in events(folder) if event["type"] == "progress"]
    assert progress[-1]["step"] == progress[-1]["total_steps"] == report["rows"]
    (result,) = (event["values"] for event in events(folder) if event["type"] == "result")
    assert result["maps"] == 160
    assert result["maps_per_s"] > 0


KILLED = """
import sys
from pathlib import Path
from models.core.run import Run
from models.saliency import map_range
from models.saliency.map import map_images
from models.saliency.net import load
from models.saliency.spec.map import SaliencyMap
from tests.models.saliency.test_saliency_range import CHUNK, subject

load.load_subject = lambda *_: subject()
map_range.CHUNK_BYTES = CHUNK
map_images(SaliencyMap.model_validate_json(sys.argv[2]), Run(Path(sys.argv[1])))
"""


def test_a_killed_process_is_gone_on_from_and_leaves_the_same_bytes(explain, tmp_path):
    fields = {**FIELDS, "images": {"dataset": "digits", "count": 60}, "target": 3}
    whole = explain("whole", **fields)
    folder = tmp_path / "killed"
    folder.mkdir()
    root = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", KILLED, str(folder), json.dumps(fields)]
    with subprocess.Popen(command, env=root) as process:
        until = time.monotonic() + 120
        while len(list(folder.glob("checkpoints/*.safetensors"))) < 3:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    checkpoint = max(folder.glob("checkpoints/*.safetensors"))
    done = int(checkpoint.stem.removeprefix("step-"))
    assert 0 < done < 60
    rest = explain("rest", resume=checkpoint, **fields)
    chunks = list(rest.glob("maps.zarr/maps/c/*/0/0/0/0"))
    assert len(chunks) == 10 - done // 6  # six images a chunk; those before are not made again
    shutil.copytree(rest, folder, dirs_exist_ok=True)  # later files of a job replace earlier ones
    for file in [*whole.glob("maps.zarr/**/*"), whole / "images.csv", whole / "report.json"]:
        if file.is_file():
            assert (folder / file.relative_to(whole)).read_bytes() == file.read_bytes(), file


def test_a_stop_within_a_chunk_keeps_its_finished_maps(explain, tmp_path):
    whole = explain("whole")
    with pytest.raises(StoppedError):
        explain("stopped", stop_at=4)
    (_, checkpoint) = sorted((tmp_path / "stopped").glob("checkpoints/*"))
    done = int(checkpoint.stem.removeprefix("step-"))
    assert done % 3 != 0
    rest = explain("rest", resume=checkpoint)
    chunk = done // 3
    np.testing.assert_array_equal(stored(rest)[3 * chunk :], stored(whole)[3 * chunk :])
    for name in ("images.csv", "report.json"):
        assert (rest / name).read_bytes() == (whole / name).read_bytes()


def test_maps_that_are_not_made_yet_read_as_nan(explain, tmp_path):
    with pytest.raises(StoppedError):
        explain("stopped", stop_at=7)
    maps = stored(tmp_path / "stopped")
    assert np.isfinite(maps[:6]).all()
    assert np.isnan(maps[6:]).all()


def test_memory_holds_two_blocks_of_images_at_most(tmp_path):
    spec = SaliencyMap.model_validate({**FIELDS, "images": {"dataset": "digits", "count": 360}})
    with (tmp_path / "events.jsonl").open("w") as stream:
        images = inputs.ExplainedImages(spec, Run(tmp_path, stream))
    arrays = samples.images("digits").test.images
    for position in range(360):
        np.testing.assert_array_equal(images[position], arrays[position])
        assert len(images._images) <= 2 * inputs.BLOCK


def test_warnings_of_thousands_of_images_are_counted(explain, monkeypatch):
    net = conv_net(10)
    with torch.no_grad():
        net[-1].weight.zero_()
    monkeypatch.setattr(load, "load_subject", lambda *_: subject(net))
    folder = explain("still")
    codes = [event["code"] for event in events(folder) if event.get("event") == "warning"]
    assert sorted(codes) == ["map_is_zero", "score_does_not_move"]
    report = json.loads((folder / "report.json").read_text())
    times = {warning["code"]: warning["times"] for warning in report["warnings"]}
    assert times == {"map_is_zero": 20 * 4 * 2, "score_does_not_move": 20 * 2}
    assert not stored(folder).any()


def test_the_maps_of_the_first_images_are_drawn(explain, monkeypatch):
    monkeypatch.setattr(map_range, "DRAWN", 2)
    folder = explain("drawn", outputs=["png"], images={"dataset": "digits", "count": 4}, target=0)
    assert len(list(folder.glob("saliency/*/*.png"))) == 2 * 2


def test_a_checkpoint_of_another_kind_is_refused(explain, tmp_path):
    from models.core import checkpoint

    other = tmp_path / "step-00000001.safetensors"
    checkpoint.write(other, {"a": torch.zeros(1)}, {"sweep": {}})
    with pytest.raises(DataError, match="no checkpoint of maps of a range"):
        explain("other", resume=other)


def test_a_range_beyond_the_end_is_refused_with_what_there_is(explain):
    with pytest.raises(SpecError, match=r"images.count: images reach to index 400; digits has"):
        explain("beyond", images={"dataset": "digits", "first": 351, "count": 50})


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (SaliencyMap, {"methods": [{"id": "occlusion_raw"}]}, "occlusion_raw gives a value a wind"),
        (SaliencyMap, {"images": {"dataset": "digits", "count": 0}}, "images.range.count"),
        (SaliencyMap, {"images": []}, "images.list"),
        (SaliencyMap, {"images": {"dataset": "digits"}}, "images.range.count"),
    ],
)
def test_what_a_range_cannot_be_is_refused(kind, fields, message):
    with pytest.raises(ValidationError, match=message):
        kind.model_validate({**FIELDS, **fields})


def test_a_graded_range_is_bounded():
    graded = {name: FIELDS[name] for name in ("model", "batch")}
    ok = {"images": {"dataset": "digits", "count": 300}, "max_rows": 10**9}
    spec = SaliencyEvaluate.model_validate({"kind": "saliency.evaluate", **graded, **ok})
    assert spec.rows(24, 24) > 300
    ok["images"]["count"] = 1001
    with pytest.raises(ValidationError, match="at most 1,000 images are graded at once"):
        SaliencyEvaluate.model_validate({"kind": "saliency.evaluate", **graded, **ok})


def test_a_set_that_is_too_small_is_told_at_submission():
    spec = SaliencyMap.model_validate(FIELDS)
    from models.core.needs import DatasetInfo

    *_, need = spec.needs()
    few = DatasetInfo("digits", {"train": 9, "test": 22, "channels": 1})
    (lack,) = need.lacks(few)
    assert lack.pointer == "/images/count"
    assert "at least 23 test images" in lack.reason
    assert "lower first or count" in lack.reason
