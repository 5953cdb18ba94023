"""Every kind of the catalogue with its smallest spec keeps the promises of a method."""

import json
from functools import cache

import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter
from safetensors.torch import load_file

from models.catalog import JobSpec, kinds
from models.core.errors import DataMissingError
from models.core.run import Run, StoppedError
from models.stored import load_entry
from tests.smallest import smallest

TIMES = ("images_per_s", "curves.png")  # ends of metrics and files that tell of the machine


def runs_of(kind):
    spec = TypeAdapter(JobSpec).validate_python(smallest(kind))
    return spec, load_entry(spec)


def carry_out(kind, run):
    spec, entry = runs_of(kind)
    try:
        entry(spec, run)
    except DataMissingError as missing:
        pytest.skip(f"the data of the smallest spec is not installed: {missing}")


def events(run, kind):
    lines = (run.dir / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["type"] == kind]


def numbers(run):
    """Metrics with their steps, without those that tell of time."""
    return [
        (event["step"], name, value)
        for event in events(run, "metric")
        for name, value in event["values"].items()
        if not name.endswith(TIMES)
    ]


def contents(run):
    """Bytes of the artifacts that hold arrays, by name; headers may hold times."""
    found = {}
    for event in events(run, "artifact"):
        path = run.dir / event["name"]
        if path.suffix == ".safetensors":
            found |= {f"{event['name']}:{k}": v for k, v in load_file(path).items()}
        elif path.suffix in (".npy", ".npz", ".png") and not path.name.endswith(TIMES):
            found[event["name"]] = path.read_bytes()
    return found


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        same = torch.equal(value, b[name]) if torch.is_tensor(value) else value == b[name]
        assert same, name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Gives the run of a kind that was never interrupted, carried out at the first call."""

    @cache
    def whole(kind):
        folder = tmp_path_factory.mktemp(kind)
        with (folder / "events.jsonl").open("w") as lines:
            run = Run(folder, lines, checkpoint_interval_s=1e9)
            carry_out(kind, run)
        return run

    return whole


@pytest.mark.parametrize("kind", kinds())
def test_reports_what_it_declares(kind, whole):
    """A metric or a result, an artifact, and no name that the kind has not declared."""
    run, cls = whole(kind), kinds()[kind]
    names = {name for event in events(run, "metric") for name in event["values"]}
    assert names or events(run, "result")
    assert names <= {metric.name for metric in cls.metrics}
    artifacts = events(run, "artifact")
    assert artifacts
    assert {event["role"] for event in artifacts} <= {artifact.role for artifact in cls.artifacts}


@pytest.mark.parametrize("kind", kinds())
def test_pictures_tell_nothing_of_where_they_come_from(kind, whole):
    """No EXIF and no text of the photograph that they show, nor of this machine."""
    run = whole(kind)
    names = [event["name"] for event in events(run, "artifact") if event["role"] == "image"]
    for name in names:
        if (run.dir / name).suffix in (".png", ".jpg", ".gif", ".webp"):
            with Image.open(run.dir / name) as picture:
                assert not picture.getexif()
                assert not picture.info.keys() & {"exif", "xmp", "comment", "Software", "Author"}


@pytest.mark.parametrize("kind", kinds())
def test_obeys_a_stop(kind, new_run):
    """Asked before its first step, it ends with a stop and without a result."""
    run = new_run()
    run.request_stop("test")
    with pytest.raises(StoppedError):
        carry_out(kind, run)
    assert not events(run, "result")


@pytest.mark.parametrize(
    "kind",
    [  # a resumed run repeats the steps of an uninterrupted one
        pytest.param(kind, marks=[pytest.mark.slow] if spec.resumable else [])
        for kind, spec in kinds().items()
    ],
)
def test_repeats_bit_for_bit(kind, whole, new_run):
    """The same seed gives the same numbers and the same arrays on a CPU."""
    first, second = whole(kind), new_run()
    carry_out(kind, second)
    assert numbers(first) == numbers(second)
    assert_same(contents(first), contents(second))


@pytest.mark.parametrize("kind", [kind for kind, spec in kinds().items() if spec.resumable])
def test_resumes_bit_for_bit(kind, whole, new_run):
    """From the checkpoint of a stopped run to the arrays of an uninterrupted one."""
    stopped = new_run()
    stopped.request_stop("test")
    with pytest.raises(StoppedError):
        carry_out(kind, stopped)
    (left,) = [event for event in events(stopped, "artifact") if event["role"] == "checkpoint"]
    resumed = new_run(resume=stopped, step=left["step"])
    carry_out(kind, resumed)
    found = contents(resumed)
    assert found
    assert_same(found, {name: x for name, x in contents(whole(kind)).items() if name in found})


@pytest.mark.gpu
@pytest.mark.parametrize("kind", kinds())
def test_a_gpu_leaves_what_a_cpu_leaves(kind, whole, new_run):
    """Stopped before its first step and resumed: the same files, and nothing fell away."""
    run = new_run(device="cuda")
    if kinds()[kind].resumable:
        run.request_stop("test")
        with pytest.raises(StoppedError):
            carry_out(kind, run)
        (left,) = [event for event in events(run, "artifact") if event["role"] == "checkpoint"]
        run = new_run(resume=run, step=left["step"], device="cuda")
    carry_out(kind, run)
    names, expected = (
        {event["name"] for event in events(each, "artifact") if event["role"] != "checkpoint"}
        for each in (run, whole(kind))
    )
    assert names == expected
    codes = {event.get("code") for event in events(run, "event")}
    assert "not_exported" not in codes


@pytest.mark.parametrize("kind", kinds())
def test_declares_what_the_service_shows(kind):
    """Kind, description, an estimate, an example, presets that the example completes."""
    cls = kinds()[kind]
    TypeAdapter(JobSpec).validate_python(dict(cls.example))
    assert cls.presets
    assert kind.partition(".")[0] in cls.entry
    assert cls.__doc__
    runs_of(kind)[0].estimate({})
    for name, preset in cls.presets.items():
        needed = {field: cls.example[field] for field in cls.model_json_schema()["required"]}
        spec = TypeAdapter(JobSpec).validate_python({**needed, **preset})
        assert spec.kind == kind, name
