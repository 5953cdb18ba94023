"""Nets of the user: exported programs, safetensors with an architecture, libraries; no pickle."""

import json
import sys
import zipfile
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.core.errors import DataError, SpecError
from models.data import files
from models.data.programs import read_program
from models.nets import library as net_library
from models.nets.build import build_net
from models.nets.exported import load_program
from models.saliency.engine.trace import trace
from models.saliency.graders.grade import GradedMap
from models.saliency.graders.registry import grade
from models.saliency.net import load
from models.saliency.net.outputs import Meaning, check_score, meaning_of
from models.saliency.net.scores import Scorer, probe
from models.saliency.net.space import Space
from models.saliency.spec import graders
from models.saliency.spec.map import SaliencyMap
from models.saliency.spec.net import Input, NamedNet, UploadedNet
from tests.models.saliency.saliency_nets import case, noise

DYNAMIC = ({0: torch.export.Dim.DYNAMIC},)


class Branches(nn.Module):
    """Residual, concatenating, depthwise and squeezing parts, with sizes from run time."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6())
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.gate = nn.Linear(8, 8)
        self.head = nn.Linear(24, 5)
        self.register_buffer("scale", torch.full((1, 8, 1, 1), 0.5))

    def forward(self, x):
        y = self.stem(x)
        z = y + nn.functional.hardswish(self.deep(y)) * self.scale
        gate = torch.sigmoid(self.gate(z.mean((2, 3))))[:, :, None, None]
        left, right = torch.cat([y, z * gate], 1).chunk(2, dim=1)
        maps = torch.cat([nn.functional.max_pool2d(left, 2), nn.functional.avg_pool2d(right, 2)], 1)
        maps = torch.cat([maps, nn.functional.avg_pool2d(z, 2)], 1)
        return self.head(nn.functional.dropout(maps.amax((2, 3)).view(x.shape[0], -1), 0.5, False))


def exported(net: nn.Module, path, batch: int = 2, dynamic=DYNAMIC):
    program = torch.export.export(net, (torch.zeros(batch, 3, 12, 10),), dynamic_shapes=dynamic)
    torch.export.save(program, path)
    return path


@pytest.fixture
def branches():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Branches().eval()


def test_an_exported_net_gives_what_the_net_gave_at_any_batch_size(branches, tmp_path):
    path = exported(branches, tmp_path / "net.pt2")
    net = load_program(path, "cpu")
    assert net.size == (3, 12, 10)
    plan = trace(net, (3, 12, 10))
    for count in (1, 2, 5):
        x = noise(count, 3, 12, 10, seed=count, dtype=torch.float32)
        torch.testing.assert_close(net(x), branches(x))
        torch.testing.assert_close(plan(x), branches(x), atol=1e-5, rtol=1e-5)
    probe(Scorer(net, "prob"), x[0])
    metadata = files.check(path, "net", {})
    assert metadata["parameters"] >= sum(p.numel() for p in branches.parameters())


def test_mprt_of_a_program_is_refused(branches, tmp_path):
    """It has no layers to randomise: each map would be compared with itself."""
    net = load_program(exported(branches, tmp_path / "net.pt2"), "cpu")
    image = case(net, noise(3, 12, 10, seed=0, dtype=torch.float32))
    space = Space([0.0] * 3, [1.0] * 3)
    with pytest.raises(SpecError, match="exported program"):
        grade(
            graders.Randomisation(id="mprt"),
            GradedMap(torch.rand(12, 10), image, 0, space, lambda _: None),
        )


class Head(nn.Module):
    """Linear scores of an image under a last operation; the seed fixes the weights."""

    def __init__(self, outputs: int, last=lambda y: y) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(outputs, 360, generator=generator) / 100)
        self.last = last

    def forward(self, x):
        return self.last(nn.functional.linear(x.flatten(1), self.weight))


LABELS = {
    "sigmoid": torch.sigmoid,
    "sigmoid of a view": lambda y: torch.sigmoid(y).unsqueeze(2).flatten(1),
    "two heads": lambda y: torch.cat([torch.sigmoid(y[:, :2]), torch.sigmoid(y[:, 2:])], 1),
    "hardsigmoid": nn.functional.hardsigmoid,
}


def described(net, path, score, **fields):
    """The net as a job loads it, with the checks of its spec."""
    exported(net, path)
    model = UploadedNet(dataset="mine", **fields)
    spec = SaliencyMap(
        kind="saliency.map", model=model, score=score, methods=[{"id": "rise", "masks": 8}]
    )
    subject = load.uploaded(model, path, "cpu")
    load.check(spec, subject)
    return subject


@pytest.mark.parametrize("last", LABELS)
def test_a_net_that_ends_in_a_sigmoid_has_labels_not_classes(last, tmp_path):
    """``prob`` is each output as it is: no softmax couples the labels."""
    net = described(Head(5, LABELS[last]), tmp_path / "net.pt2", "prob").net
    x = noise(3, 3, 12, 10, dtype=torch.float32)
    scorer = Scorer(net, "prob")
    outputs = scorer.outputs(x)
    assert torch.equal(scorer.scores(outputs), outputs)
    assert torch.equal(scorer.probabilities(outputs), outputs)
    assert scorer.meaning == Meaning("labels", applied=True)
    probe(scorer, x[0])
    for score in ("sigmoid", "logprob"):
        with pytest.raises(SpecError, match="probabilities of labels already") as error:
            described(Head(5, LABELS[last]), tmp_path / "net.pt2", score)
        assert "'prob' or 'logit'" in str(error.value.hint)


@pytest.mark.parametrize("last", [lambda y: y, lambda y: torch.sigmoid(y) * 2 - 1, torch.relu])
def test_other_nets_have_classes(last, tmp_path):
    scorer = Scorer(described(Head(5, last), tmp_path / "net.pt2", "prob").net, "prob")
    outputs = scorer.outputs(noise(3, 3, 12, 10, dtype=torch.float32))
    assert scorer.meaning == Meaning("classes")
    torch.testing.assert_close(scorer.scores(outputs), outputs.softmax(1))


@pytest.mark.parametrize("score", ["prob", "logprob"])
def test_a_softmax_over_one_output_is_refused(score, tmp_path):
    with pytest.raises(SpecError, match="whatever the image") as error:
        described(Head(1), tmp_path / "net.pt2", score)
    assert "'sigmoid'" in str(error.value.hint)
    assert "'logit'" in str(error.value.hint)
    net = described(Head(1), tmp_path / "net.pt2", "sigmoid", classes=["ill"]).net
    scorer = Scorer(net, "sigmoid")
    outputs = scorer.outputs(noise(2, 3, 12, 10, dtype=torch.float32))
    torch.testing.assert_close(scorer.scores(outputs), outputs.sigmoid())
    number = Scorer(net, "logit", meaning=meaning_of(net, score="logit", count=1))
    assert number.probabilities(outputs) is None


def test_probabilities_of_classes_are_read_as_they_are(tmp_path):
    """A program that ends in a softmax: prob is its output, logprob the log; no sigmoid."""
    path = tmp_path / "net.pt2"
    net = described(Head(5, lambda y: y.softmax(1)), path, "prob").net
    x = noise(3, 3, 12, 10, dtype=torch.float32)
    for score, expected in (("prob", lambda p: p), ("logprob", torch.log)):
        scorer = Scorer(net, score)
        probe(scorer, x[0])
        outputs = scorer.outputs(x)
        torch.testing.assert_close(scorer.scores(outputs), expected(outputs))
        assert torch.equal(scorer.probabilities(outputs), outputs)
    with pytest.raises(SpecError, match="as probabilities already"):
        described(Head(5, lambda y: y.softmax(1)), path, "sigmoid")


def test_probabilities_that_no_last_operation_shows_are_refused_or_declared():
    """Their sums show them; a second softmax is refused, and ``output_type`` says what they are."""
    net, x = Head(5, lambda y: y.exp() / y.exp().sum(1, keepdim=True)), noise(3, 12, 10)
    with pytest.raises(SpecError, match="probabilities already") as error:
        probe(Scorer(net.double(), "prob"), x)
    assert "output_type 'probabilities'" in str(error.value.hint)
    scorer = Scorer(net.double(), "prob", meaning=meaning_of(net, "probabilities"))
    probe(scorer, x)
    outputs = scorer.outputs(x[None])
    assert torch.equal(scorer.scores(outputs), outputs)


def test_labels_given_as_logits_are_declared():
    net, x = Head(5).double(), noise(2, 3, 12, 10)
    scorer = Scorer(net, "prob", meaning=meaning_of(net, "labels"))
    outputs = scorer.outputs(x)
    torch.testing.assert_close(scorer.scores(outputs), outputs.sigmoid())
    torch.testing.assert_close(scorer.probabilities(outputs), outputs.sigmoid())
    log = Scorer(net, "logprob", meaning=meaning_of(net, "labels"))
    torch.testing.assert_close(log.scores(outputs), outputs.sigmoid().log())


@pytest.mark.parametrize("score", ["prob", "sigmoid", "logprob"])
def test_a_regression_has_no_probabilities(score):
    with pytest.raises(SpecError, match="outputs of a regression have none") as error:
        check_score(Meaning("regression"), score, 4)
    assert "'logit'" in str(error.value.hint)


class Located(nn.Module):
    """Scores in place: a map of every class (segmentation), or boxes and scores (detection)."""

    def __init__(self, detects: bool) -> None:
        super().__init__()
        self.conv, self.detects = nn.Conv2d(3, 4, 3, padding=1), detects

    def forward(self, x):
        maps = self.conv(x)
        return (maps.amax((2, 3)), maps.mean((2, 3))) if self.detects else maps


@pytest.mark.parametrize("detects", [True, False])
def test_detection_and_segmentation_are_out_of_scope_and_the_way_is_told(detects, tmp_path):
    path = exported(Located(detects).eval(), tmp_path / "net.pt2")
    with pytest.raises((SpecError, DataError), match="out of scope") as error:
        load.uploaded(UploadedNet(dataset="mine"), path, "cpu")
    assert "the number you ask about" in str(error.value.hint)


def test_reading_an_archive_runs_none_of_its_pickles(branches, tmp_path, monkeypatch):
    path = exported(branches, tmp_path / "net.pt2")

    def refuse(*_, **__):
        raise AssertionError("a pickle was read")

    for module, name in (("pickle", "load"), ("pickle", "loads"), ("torch", "load")):
        monkeypatch.setattr(sys.modules[module], name, refuse)
    load_program(path, "cpu")


def rewritten(path, edit):
    """A copy of the archive whose graph was changed by ``edit``."""
    other = path.with_name("other.pt2")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if "/models/" in name or name.endswith("_config.json"):
                document = json.loads(content)
                edit(name, document)
                content = json.dumps(document).encode()
            new.writestr(name, content)
    return other


@pytest.mark.parametrize(
    "target",
    [
        "torch.load",
        "torch.hub.load",
        "torch.ops.aten.from_file.default",
        "_operator.attrgetter",
        "torch.ops.aten.relu.__globals__.os",
        "#custom",
    ],
)
def test_only_known_operations_are_looked_up(branches, tmp_path, target):
    def edit(name, document):
        if "/models/" in name:
            document["graph_module"]["graph"]["nodes"][3]["target"] = target

    path = rewritten(exported(branches, tmp_path / "net.pt2"), edit)
    with pytest.raises(DataError, match="not supported"):
        read_program(path)


def test_pickled_and_oversized_weights_are_refused(branches, tmp_path):
    path = exported(branches, tmp_path / "net.pt2")

    def pickled(name, document):
        if name.endswith("weights_config.json"):
            next(iter(document["config"].values()))["use_pickle"] = True

    def stretched(name, document):
        if name.endswith("weights_config.json"):
            meta = next(iter(document["config"].values()))["tensor_meta"]
            meta["sizes"][0]["as_int"], meta["strides"][0]["as_int"] = 10**9, 0

    with pytest.raises(DataError, match="pickled"):
        read_program(rewritten(path, pickled))
    with pytest.raises(DataError, match="larger than its bytes"):
        load_program(rewritten(path, stretched), "cpu")


def test_files_of_torch_save_are_refused(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "net.pth")
    with pytest.raises(DataError, match="no exported program"):
        files.check(tmp_path / "net.pth", "net", {})
    (tmp_path / "old.pkl").write_bytes(b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00")
    with pytest.raises(DataError, match=r"neither a torch\.export archive"):
        files.check(tmp_path / "old.pkl", "net", {})


def test_a_program_in_training_mode_is_refused(branches, tmp_path):
    with torch.random.fork_rng():
        path = exported(branches.train(), tmp_path / "net.pt2")
    with pytest.raises(DataError, match=r"training mode.*") as caught:
        read_program(path)
    assert "net.eval()" in caught.value.hint


def test_a_program_of_a_fixed_batch_is_refused_where_it_matters(branches, tmp_path):
    path = exported(branches, tmp_path / "net.pt2", batch=1, dynamic=None)
    model = UploadedNet(dataset="mine")
    with pytest.raises(SpecError) as caught:
        load.uploaded(model, path, "cpu")
    assert "Dim.DYNAMIC" in caught.value.hint


def test_safetensors_with_one_of_our_architectures(tmp_path):
    net = build_net({"name": "resnet8"}, 7, 1).eval()
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    given = Input(size=[32, 32], mean=[0.5], std=[0.25])
    fields = {"dataset": "mine", "architecture": {"name": "resnet8"}, "input": given}
    subject = load.uploaded(UploadedNet(**fields), tmp_path / "net.safetensors", "cpu")
    x = noise(2, 1, 32, 32, dtype=torch.float32)
    torch.testing.assert_close(subject.net(x), net(x))
    assert (subject.size, subject.channels, len(subject.classes)) == ((32, 32), 1, 7)
    wrong = UploadedNet(**fields | {"architecture": {"name": "resnet14"}})
    with pytest.raises(DataError, match="do not fit"):
        load.uploaded(wrong, tmp_path / "net.safetensors", "cpu")
    bare = UploadedNet(**fields | {"architecture": None})
    with pytest.raises(SpecError, match="architecture"):
        load.uploaded(bare, tmp_path / "net.safetensors", "cpu")


def test_nets_of_libraries(monkeypatch):
    part = NamedNet(library="timm", name="resnet18", weights="random")
    monkeypatch.setitem(sys.modules, "timm", None)  # as where it is not installed
    with pytest.raises(SpecError, match="not installed") as caught:
        net_library.named(part, None, pretrained=False)
    assert "install timm" in caught.value.hint
    made = {}

    def create_model(name, pretrained, **fields):
        made.update(name=name, pretrained=pretrained, **fields)
        if name == "nothing":
            raise RuntimeError("Unknown model")
        return nn.Identity()

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    net_library.named(part, 7, pretrained=False)
    assert made == {"name": "resnet18", "pretrained": False, "num_classes": 7}
    with pytest.raises(SpecError, match="makes no 'nothing'"):
        net_library.named(NamedNet(library="timm", name="nothing"), None, pretrained=True)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"library": "torchvision", "name": "resnet18"}, "pickle"),
        ({"dataset": "mine", "input": {"mean": [0.5]}}, "std 3; give one"),
        ({"dataset": "mine", "input": {"mean": [0.5], "std": [0.0]}}, "must be positive"),
        ({"file": "net.pth"}, "torch.export archive"),
    ],
)
def test_models_that_cannot_work_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        SaliencyMap.model_validate({"kind": "saliency.map", "model": model})


def test_the_digest_of_an_uploaded_net_is_pinned():
    spec = SaliencyMap.model_validate({"kind": "saliency.map", "model": {"dataset": "mine"}})
    assert ("/model", spec.model) in list(spec.references())
