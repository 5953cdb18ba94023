"""Exported programs through whole trainings: cheap steps, tickets, files, what is refused."""

import json

import pytest
import torch
from torch import nn

from models.core.errors import SpecError
from models.core.needs import DatasetInfo
from models.data import images, loading, synthetic
from models.data.programs import check
from models.dynamic_downsampling import train as downsampling
from models.dynamic_downsampling.norms import reestimate
from models.dynamic_downsampling.setup import prepare
from models.dynamic_downsampling.spec import DynamicDownsamplingTrain
from models.freetickets import train as freetickets
from models.freetickets.spec import FreeTicketsTrain
from models.nets import tickets
from models.nets.files import load_net
from models.saliency.spec.map import SaliencyMap
from models.selective_convolution.spec import SelectiveConvolutionTrain
from models.supervised.hooks import SubRun
from tests.models.nets.programs import Residual, exported

SHA256 = "1" * 64
MODEL = {"dataset": "mine", "sha256": SHA256}
BASE = {"data": {"dataset": "none"}, "max_steps": 8, "batch_size": 8, "optimizer": {"lr": 0.02}}


@pytest.fixture(scope="module")
def data():
    """Four classes of 16 x 16 grey patterns: 32 training and 16 test images."""
    train = synthetic.blobs(32, classes=4, size=16, channels=1, seed=1)
    test = synthetic.blobs(16, classes=4, size=16, channels=1, seed=2)
    return images.from_tensors(list(train), list(test), ["a", "b", "c", "d"], "cpu")


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The small net exported in both modes, and for one size in eval mode."""
    folder = tmp_path_factory.mktemp("programs")
    torch.manual_seed(3)
    net = Residual()
    return {
        "train": exported(net.train(), folder / "train.pt2"),
        "fixed": exported(net.eval(), folder / "fixed.pt2", open_sides=False),
    }


@pytest.fixture
def run_with(new_run, archives):
    """Makes runs whose input is an archive."""

    def make(name, *resume):
        run = new_run(*resume)
        (run.dir / "inputs").mkdir()
        (run.dir / "inputs" / SHA256).write_bytes(archives[name].read_bytes())
        return run

    return make


def downsampled(**fields):
    down = {"gradient_probes": 0} | fields.pop("downsample", {})
    base = {"kind": "dynamic_downsampling.train", "model": MODEL, **BASE, "downsample": down}
    return DynamicDownsamplingTrain.model_validate(base | fields)


def sparse(**fields):
    base = {"kind": "freetickets.train", "model": MODEL, **BASE, "members": 2, "update_interval": 1}
    return FreeTicketsTrain.model_validate(base | fields)


def told(run):
    run._events.flush()
    return (run.dir / "events.jsonl").read_text()


def test_cheap_steps_resume_and_leave_a_net(data, run_with, monkeypatch):
    """Pooled filters by the net's names; the same bits again from the middle; files that load."""
    monkeypatch.setattr(loading, "load", lambda *_: data)
    spec, run = downsampled(model={**MODEL, "freeze": ["stem.*"]}, export=True), run_with("train")
    downsampling.train(spec, run)
    loaded = load_net(run.dir / "weights.safetensors", "cpu")
    report = json.loads((run.dir / "report.json").read_text())
    rows = {row["name"]: row["reason"] for row in report["layers"]}
    assert rows == {"stem": "pooled", "down": "pooled"}
    assert report["result"]["steps"]["cheap"] > 0
    assert (run.dir / "net.onnx").exists()
    assert (run.dir / "net.pt2").exists()
    assert "exported_in_eval_mode" not in told(run)
    assert "not_exported" not in told(run)
    half = min((run.dir / "checkpoints").iterdir())
    resumed = run_with("train", run, int(half.stem[-8:]))
    again = prepare(spec, data, resumed)
    downsampling.fit_cheap(again, resumed, SubRun())
    for name, tensor in again.net.state_dict().items():
        assert torch.equal(tensor, loaded.net.state_dict()[name]), name
    start = prepare(spec, data, run_with("train")).net
    assert torch.equal(loaded.net.get_parameter("stem.weight"), start.get_parameter("stem.weight"))
    assert not torch.equal(
        loaded.net.get_parameter("head.weight"), start.get_parameter("head.weight")
    )


def test_tickets_of_a_program(data, run_with, monkeypatch):
    """Masks by the net's names, joined and tied weights included; members load as plain nets."""
    monkeypatch.setattr(loading, "load", lambda *_: data)
    run = run_with("fixed")
    export = {"onnx": False, "timings": []}
    freetickets.train(sparse(export=export), run)
    report = json.loads((run.dir / "report.json").read_text())
    names = {row["name"] for row in report["layers"]}
    assert names >= {"stem", "down", "attend.in_proj_weight", "first", "head"}
    members = tickets.load(run.dir / "ensemble.safetensors").nets
    plain = load_net(run.dir / "tickets/ticket-1.safetensors", "cpu")
    x = torch.randn(3, 1, 16, 16)
    assert torch.equal(plain.net(x), members[1](x))
    assert (members[0].get_parameter("attend.in_proj_weight") == 0).float().mean() > 0.3
    assert told(run).count("exported_in_eval_mode") == 1


def test_statistics_are_estimated_anew(data, run_with):
    setup = prepare(downsampled(), data, run_with("train"))
    batches = [torch.randn(8, 1, 16, 16) for _ in range(3)]
    reestimate(setup.net, batches)
    with torch.no_grad():
        maps = [nn.functional.conv2d(x, setup.net.get_parameter("stem.weight"), padding=1)
                for x in batches]  # fmt: skip
    mean = torch.stack([x.mean((0, 2, 3)) for x in maps]).mean(0)
    torch.testing.assert_close(setup.net.get_buffer("norm.running_mean"), mean)


def lacks(spec, counts):
    info = DatasetInfo("mine", counts)
    return [x for need in spec.needs() if need.pointer == "/model" for x in need.lacks(info)]


def test_what_the_check_of_an_upload_tells_decides(archives):
    """Half size needs open sides; a size must be the program's; refused before any worker."""
    fixed, free = check(archives["fixed"]), check(archives["train"])
    assert (fixed["height"], fixed["width"], fixed["channels"]) == (16, 16, 1)
    assert (fixed["open_sides"], free["open_sides"], free["open_batch"]) == (0, 2, 1)
    assert fixed["training_operations"] == 0 < free["training_operations"]
    assert lacks(downsampled(), free) == []
    (lack,) = lacks(downsampled(), fixed)
    assert lack.pointer == "/downsample/input_scale"
    assert "open sides" in lack.reason
    assert "schedule type off" in lack.reason
    assert lacks(downsampled(downsample={"schedule": {"type": "off"}}), fixed) == []
    assert lacks(sparse(), fixed) == []
    pointers = [x.pointer for x in lacks(sparse(images={"image_size": 32}), fixed)]
    assert pointers == ["/images/image_size"] * 2
    known = {"none": {"train": 64, "height": 32, "width": 32, "channels": 1}, "mine": fixed}
    with pytest.raises(SpecError, match="a height of 16, the images of none have 32"):
        sparse().estimate(known)
    with pytest.raises(SpecError, match="a channels of 1") as error:
        sparse(images={"image_size": 16}).estimate(
            known | {"none": {"train": 64, "height": 16, "width": 16, "channels": 3}}
        )
    assert error.value.pointer == "/model/dataset"


def test_other_uses_of_such_programs():
    """Weights alone are no net to train; saliency takes no program of training."""
    (lack,) = lacks(sparse(), {"tensors": 3, "parameters": 30})
    assert "weights alone are no net" in lack.reason
    fields = {"kind": "saliency.map", "model": {"dataset": "mine"}}
    counts = {"tensors": 3, "parameters": 30, "operations": 9, "training_operations": 2}
    (lack,) = lacks(SaliencyMap.model_validate(fields), counts)
    assert "net.eval()" in lack.reason
    with pytest.raises(ValueError, match="no exported program is trained by this kind"):
        SelectiveConvolutionTrain.model_validate(
            {"kind": "selective_convolution.train", "model": {"dataset": "mine"}, **BASE}
        )


def test_a_program_of_one_size_is_refused_by_the_worker_too(data, run_with):
    with pytest.raises(SpecError, match=r"takes no cheap steps.*a height of 16, and was given 8"):
        prepare(downsampled(), data, run_with("fixed"))
