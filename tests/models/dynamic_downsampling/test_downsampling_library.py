"""Cheap steps of nets of other libraries: trained, resumed, loaded, refused by name."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from models.core.errors import DataError, SpecError
from models.data import images, loading, synthetic
from models.dynamic_downsampling import train as method
from models.dynamic_downsampling.setup import prepare
from models.dynamic_downsampling.spec import DynamicDownsamplingTrain
from models.nets.build import build_net
from models.nets.files import load_net
from models.nets.library_spec import ForeignNet
from models.supervised.hooks import SubRun
from models.supervised.initial import in_safe_order
from tests.models.nets.libraries import library

PAGE = Path(__file__).parents[3] / "docs" / "use.md"
RESNET = {"library": "timm", "name": "test_resnet"}


@pytest.fixture(scope="module")
def data():
    """Four classes of 32 x 32 grey patterns: 32 training and 16 test images."""
    train = synthetic.blobs(32, classes=4, size=32, channels=1, seed=1)
    test = synthetic.blobs(16, classes=4, size=32, channels=1, seed=2)
    return images.from_tensors(list(train), list(test), ["a", "b", "c", "d"], "cpu")


def trained(spec, data, run):
    setup = prepare(spec, data, run)
    return setup, method.fit_cheap(setup, run, SubRun())


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
def test_training_resumes_bit_for_bit(name, data, make_spec, new_run):
    """Cheap and full steps; the checkpoint in the middle leads to the same bits."""
    library("timm")
    spec = make_spec(model={"library": "timm", "name": name}, max_steps=8)
    run = new_run()
    setup, fitted = trained(spec, data, run)
    assert {"full", "cheap"} <= fitted.clock.counts.keys()
    costs = setup.costs()[0]
    assert 0.1 < costs.ratio < 0.5
    half = min((run.dir / "checkpoints").iterdir())
    again, _ = trained(spec, data, new_run(run, int(half.stem[-8:])))
    for (key, a), b in zip(
        setup.net.state_dict().items(), again.net.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), key


def test_full_steps_are_those_of_the_plain_net(data, make_spec, new_run):
    """A training of full steps alone, beside one that knows nothing of cheap ones."""
    library("timm")
    off = {"schedule": {"type": "off"}}
    spec = make_spec(model={"library": "timm", "name": "test_efficientnet"}, downsample=off)
    setup = prepare(spec, data, new_run())
    x = torch.randn(4, 1, 32, 32)
    torch.manual_seed(spec.seed)
    plain = build_net(spec.net(), 4, 1, (32, 32))
    assert torch.equal(setup.net(x), plain(x))


def test_weights_load_anywhere(data, make_spec, new_run, monkeypatch):
    """The file of a whole job: loaded as a net, and as the start of the next training."""
    library("timm")
    monkeypatch.setattr(loading, "load", lambda *_: data)
    run = new_run()
    method.train(make_spec(model=RESNET, max_steps=4), run)
    loaded = load_net(run.dir / "weights.safetensors", "cpu")
    assert loaded.net(torch.zeros(1, 1, 32, 32)).shape == (1, 4)
    report = json.loads((run.dir / "report.json").read_text())
    assert report["layers"][0]["reason"] in ("pooled", "1x1")
    ref = {"job": f"job_{'0' * 32}", "artifact": "weights.safetensors", "sha256": "0" * 64}
    after = new_run()
    (after.dir / "inputs").mkdir()
    (after.dir / "inputs" / ("0" * 64)).write_bytes((run.dir / "weights.safetensors").read_bytes())
    spec = make_spec(model={**RESNET, "weights": ref, "freeze": ["conv1.*", "layer?.*"]})
    setup, _ = trained(spec.model_copy(update={"max_steps": 2}), data, after)
    assert setup.fresh == []
    for name in ("conv1", "layer1"):
        for key, x in setup.net.named_parameters():
            if key.startswith(name):
                assert torch.equal(x, loaded.net.get_parameter(key)), key
    other = make_spec(model={"library": "timm", "name": "test_vit", "weights": ref})
    with pytest.raises(SpecError, match="are of the net"):
        prepare(other, data, after)


def test_images_lie_by_channels_where_torch_would_overrun(data, make_spec, new_run):
    """Strided 1 x 1 convolutions of few channels on a CPU; nets with wider ones stay as NHWC."""
    spec, run = make_spec(model=RESNET), new_run()
    for channels, stride, safe in ((16, 2, True), (4, 1, True), (4, 2, False)):
        pointwise = nn.Conv2d(channels, 4, 1, stride=stride)
        net = nn.Sequential(nn.Conv2d(1, channels, 3), pointwise, nn.Flatten())
        assert in_safe_order(spec, net, data, run).channels_last == safe
    run._events.flush()
    told = (run.dir / "events.jsonl").read_text()
    assert told.count("channels_first") == 1
    assert "out of bounds in 1, strided" in told


def test_timm_loads_the_folder_of_the_page(data, make_spec, new_run, monkeypatch, capsys):
    """The code of docs/use.md, in this process: a build for CPUs makes torchvision load in it."""
    library("timm")
    monkeypatch.setattr(loading, "load", lambda *_: data)
    run = new_run()
    method.train(make_spec(model={"library": "timm", "name": "test_vit"}, max_steps=2), run)
    assert 'library_name: "timm"' in (run.dir / "model_card.md").read_text()
    loaded = load_net(run.dir / "weights.safetensors", "cpu")
    pixels = data.test[:1].repeat_interleave(2, 1).repeat_interleave(2, 2)
    Image.fromarray(pixels[0, :, :, 0].numpy()).save(run.dir / "photo.png")
    (code,) = re.findall(r"```python\n(import shutil.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(run.dir)
    capsys.readouterr()
    left = {}
    exec(code, left)  # noqa: S102  # our own page
    x = images.normalise(data.test[:1], loaded.mean, loaded.std)
    torch.testing.assert_close(left["x"][None], x)
    with torch.no_grad():
        assert torch.equal(left["net"](x), loaded.net(x))
        assert capsys.readouterr().out.split() == [loaded.classes[int(loaded.net(x).argmax())]]


def test_uploaded_weights_of_other_classes(data, make_spec, new_run):
    library("timm")
    run = new_run()
    (run.dir / "inputs").mkdir()
    save_file(build_net(RESNET, 9, 1).state_dict(), run.dir / "inputs" / ("1" * 64))
    model = {**RESNET, "weights": {"dataset": "mine", "sha256": "1" * 64}}
    setup = prepare(make_spec(model=model), data, run)
    assert setup.fresh == ["fc.bias", "fc.weight"]
    run._events.flush()
    assert "new_classifier" in (run.dir / "events.jsonl").read_text()
    wrong = {**model, "name": "test_vit"}
    with pytest.raises(DataError, match="of mine do not fit the architecture"):
        prepare(make_spec(model=wrong), data, run)


def test_nets_of_one_size_are_refused_by_name(data, make_spec, new_run):
    library("timm")
    spec = make_spec(model={"library": "timm", "name": "mixer_s32_224"}, downsample={})
    with pytest.raises(SpecError, match=r"mixer_s32_224 takes no cheap steps.*16 x 16") as caught:
        prepare(spec, data, new_run())
    assert caught.value.pointer == "/downsample/input_scale"
    named = make_spec(model=RESNET, downsample={"kernel_layers": ["nothing.*"]})
    with pytest.raises(SpecError, match=r"'nothing.\*' names no convolution of the net"):
        prepare(named, data, new_run())


def test_the_spec_of_a_foreign_net(make_spec):
    ref = {"dataset": "mine"}
    spec = make_spec(model={**RESNET, "weights": ref, "freeze": ["layer1.*"]})
    assert spec.net() == RESNET
    assert ("/model/weights", spec.model.weights) in list(spec.references())
    assert "/model/weights" in [need.pointer for need in spec.needs()]
    assert (
        "full_macs" not in spec.estimate({"none": {"train": 64, "height": 32, "width": 32}}).details
    )
    job = ForeignNet.model_validate(
        {**RESNET, "weights": {"job": f"job_{'0' * 32}", "artifact": "weights.safetensors"}}
    )
    assert job.weights.artifact == "weights.safetensors"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"library": "torchvision", "name": "resnet18", "weights": "pretrained"}, "pickle files"),
        ({"library": "keras", "name": "resnet18"}, "'timm' or 'torchvision'"),
        ({"library": "timm", "name": "hf_hub:a/b"}, "should match pattern"),
        (
            {"library": "timm", "name": "resnet18", "weights": "best"},
            "Input should be 'pretrained'",
        ),
    ],
)
def test_models_that_cannot_work_are_refused(model, message):
    fields = {"kind": "dynamic_downsampling.train", "data": {"dataset": "none"}, "model": model}
    with pytest.raises(ValidationError, match=message):
        DynamicDownsamplingTrain.model_validate(fields)


@pytest.mark.slow
def test_the_program_of_a_foreign_net(data, make_spec, new_run, monkeypatch):
    library("timm")
    monkeypatch.setattr(loading, "load", lambda *_: data)
    run = new_run()
    model = {"library": "timm", "name": "test_vit"}
    method.train(make_spec(model=model, max_steps=4, export=True), run)
    program = torch.export.load(run.dir / "net.pt2").module()
    assert program(torch.zeros(5, 1, 32, 32)).shape == (5, 4)
