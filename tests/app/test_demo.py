"""The demo's folder and data: what is refused removes nothing, few images are enough."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.cli import demo
from app.local import up
from app.local.address import StartError
from models.catalog import kinds
from sextant_client import ApiError

PRESETS = kinds()["dynamic_downsampling.train"].presets


@pytest.fixture
def earlier(tmp_path) -> Path:
    """The folder of an earlier demo with a result in it."""
    folder = tmp_path / "demo"
    (folder / "state").mkdir(parents=True)
    (folder / demo.MARKER).touch()
    (folder / "result.npy").write_bytes(b"mine")
    return folder


def pictures(folder: Path) -> Path:
    """One small picture in each of two classes."""
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / name / "1.png")
    return folder


class Service:
    """Answers as the API does, up to the call that it refuses."""

    def __init__(self, refused: str) -> None:
        self.refused = refused

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def kind(self, _: str) -> dict:
        return {"presets": PRESETS}

    def upload(self, name: str, *_: object, **__: object) -> dict:
        if self.refused == "upload":
            raise ApiError.own("dataset_failed", "too few images")
        if self.refused == "labels":
            return {"name": name, "counts": {"images": 2}}
        return {"name": name, "counts": {"train": 2, "test": 1, "classes": 2}}

    def dry_run(self, _: dict) -> None:
        raise ApiError.own("validation_failed", "too few classes")


def assert_untouched(folder: Path) -> None:
    assert (folder / "result.npy").read_bytes() == b"mine"
    assert [path for path in folder.parent.iterdir() if ".earlier-" in path.name] == []


@pytest.mark.parametrize("content", ["nothing", "text", "elevation"])
def test_wrong_data_is_refused_before_anything_is_removed(earlier, tmp_path, content):
    data = tmp_path / "data"
    data.mkdir()
    if content != "nothing":
        (data / {"text": "a.txt", "elevation": "dem.asc"}[content]).write_text("x")
    with pytest.raises(ValueError, match=r"no file in|cannot tell the format|no images"):
        demo.run(earlier, data)
    assert_untouched(earlier)


def test_data_inside_of_the_folder_is_refused(earlier):
    with pytest.raises(ValueError, match="give another --output"):
        demo.run(earlier, pictures(earlier / "data"))
    assert_untouched(earlier)


def test_a_folder_in_which_a_service_runs_is_refused(earlier):
    with up.only_one(earlier / "state"), pytest.raises(StartError, match="another `sextant up`"):
        demo.run(earlier, None)
    assert_untouched(earlier)


@pytest.mark.parametrize("refused", ["start", "upload", "labels", "dry_run"])
def test_what_the_service_refuses_leaves_the_earlier_demo(earlier, tmp_path, monkeypatch, refused):
    @contextmanager
    def running(_: object):
        if refused == "start":
            raise StartError("no port")
        yield up.Address("http://test", None)

    monkeypatch.setattr(demo.up, "isolate", lambda _: None)
    monkeypatch.setattr(demo.up, "running", running)
    monkeypatch.setattr(demo, "Client", lambda *_: Service(refused))
    words = "no port|too few|needs images of two classes"
    with pytest.raises((ApiError, StartError, ValueError), match=words):
        demo.run(earlier, pictures(tmp_path / "data"))
    assert_untouched(earlier)


@pytest.mark.parametrize("ratio", [0.5, None])
def test_a_run_of_few_steps_has_no_ratio(capsys, ratio):
    """Of a few steps none is timed: the figures are printed all the same."""
    names = ("test_accuracy", "train_seconds")
    result = {f"{arm}{name}": 0.5 for arm in ("", "baseline_", "shorter_") for name in names}
    result |= {"saving": 0.1, "accuracy_change": 0.0, "measured_ratio": ratio}
    demo._print_results(result, result, [], digits=True)
    printed = capsys.readouterr().out
    assert "plain, 16 px throughout" in printed
    assert ("too few to be measured" in printed) == (ratio is None)


@pytest.mark.parametrize(
    ("counts", "subset", "batch_size", "image_size", "maps"),
    [
        ({"train": 40, "test": 2, "sizes": 3}, None, 36, 32, 2),
        ({"train": 5000.0, "test": 10.0, "height": 32, "width": 32}, None, 64, None, 4),
        ({"train": 5001, "test": 100, "height": 28, "width": 28}, 5000, 64, 32, 4),
    ],
)
def test_the_training_fits_the_images(counts, subset, batch_size, image_size, maps):
    """A subset only of more images, batches and maps of no more than there are."""
    dataset = {"name": "mine", "counts": counts}
    spec = kinds()["dynamic_downsampling.train"].model_validate(
        demo._training(Service(""), dataset)  # ty: ignore[invalid-argument-type]
    )
    small = kinds()["dynamic_downsampling.train"].model_validate(
        demo._small(demo._training(Service(""), dataset))  # ty: ignore[invalid-argument-type]
    )
    assert (small.images.image_size, small.images.subset) == (16, subset)
    assert (spec.images.subset, spec.batch_size) == (subset, batch_size)
    assert spec.images.image_size == image_size
    assert spec.used(int(counts["train"])) >= batch_size
    wanted = demo._own_maps("job_" + "0" * 32, dataset)
    assert [each["index"] for each in wanted["images"]] == list(range(maps))
    kinds()["saliency.map"].model_validate(wanted)
