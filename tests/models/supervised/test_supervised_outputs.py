"""What a training leaves for others: card, ONNX and program, used without Sextant."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn

from models.core.run import Run
from models.data import images
from models.dynamic_downsampling.spec import DynamicDownsamplingTrain
from models.dynamic_downsampling.train import train
from models.nets.build import build_net
from models.nets.files import load_net
from models.nets.selective.portable import portable
from models.nets.selective.unit import CompactUnit
from models.supervised import outputs
from tests.smallest import smallest

PAGE = Path(__file__).parents[3] / "docs" / "use.md"
NETS = [
    {"name": "resnet8", "width": 16},
    {"name": "resnet50", "width": 16, "stem": "7x7"},
    {"name": "wide_resnet", "depth": 10, "widen": 1},
    {"name": "densenet40", "growth": 4, "layers": 1, "compression": 0.5},
    {"name": "resnext29", "width": 2, "blocks": 1},
    {"name": "condensenet182", "growth": 4, "layers": 1},
]


def events(run, kind):
    lines = (run.dir / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["type"] == kind]


def onnx_answer(path, x):
    return torch.from_numpy(onnxruntime.InferenceSession(path).run(None, {"images": x.numpy()})[0])


def exported(net, run, x, **wanted):
    about = {"classes": ["a"]}
    return outputs.export("net", net, outputs.LOGITS, about, x, run, program=False, **wanted)


def test_a_reference_may_lie_elsewhere_and_in_another_type(new_run):
    """As the tickets do that were trained on a GPU."""
    run, x = new_run(), torch.randn(3, 3, 32, 32)
    net = build_net(NETS[0], 7, 3)
    gaps = exported(net, run, x, reference=copy.deepcopy(net).double().train())
    assert gaps["net.onnx"] < outputs.programs.TOLERANCE


@pytest.mark.parametrize("model", NETS, ids=lambda model: model["name"])
def test_every_family_is_written_as_onnx(new_run, model):
    run, x = new_run(), torch.randn(3, 3, 32, 32)
    net = build_net(model, 7, 3)
    gaps = exported(net, run, x)
    assert gaps["net.onnx"] < outputs.programs.TOLERANCE
    with torch.no_grad():
        expected = net.eval()(x)
    actual = onnx_answer(run.dir / "net.onnx", x)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_moved_slots_are_portable(new_run):
    """Shifts within and beyond the map, along both axes, whole and not, at any batch."""
    torch.manual_seed(0)
    unit = CompactUnit(6, 5, 4, 3)
    shift = torch.tensor([[0.0, 0.0], [1.5, -0.25], [0.0, 0.0], [-9.0, 30.0], [2.0, 0.0]])
    parts = {"root": torch.tensor([4, 0, 1, 5, 5]), "shift": shift}
    parts |= {name: torch.randn(5) for name in ("scale", "offset")}
    unit.load_state_dict({**parts, "weight": torch.randn(4, 5, 3, 3)})
    net, run = nn.Sequential(unit, nn.AdaptiveAvgPool2d(1), nn.Flatten()), new_run()
    exported(portable(net), run, torch.randn(3, 6, 7, 5))
    assert not events(run, "event")
    x = torch.randn(4, 6, 7, 5)
    expected = net(x.clone().requires_grad_()).detach()  # by the reference, not compiled loops
    torch.testing.assert_close(portable(net)(x), expected, rtol=1e-5, atol=1e-5)
    actual = onnx_answer(run.dir / "net.onnx", x)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


class Unwritable(nn.Module):
    """Sorts, a way that no file describes."""

    def forward(self, x):
        return torch.linalg.eigvalsh(x.mean(1))


class Other(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) + 0.01


@pytest.mark.parametrize(
    ("net", "reference", "reason"),
    [(Unwritable(), None, "linalg"), (nn.Flatten(), Other(), "")],
)
def test_a_file_that_is_not_the_net_is_not_left(new_run, net, reference, reason):
    run, x = new_run(), torch.randn(3, 4, 1, 1)
    assert exported(net, run, x, reference=reference) == {}
    (warning,) = events(run, "event")
    assert warning["code"] == "not_exported"
    assert reason in warning["message"]
    assert not list(run.dir.glob("*.onnx"))
    assert not events(run, "artifact")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a short training that leaves everything, with a photograph beside."""
    folder = tmp_path_factory.mktemp("trained")
    spec = smallest("dynamic_downsampling.train") | {"export": True}
    with (folder / "events.jsonl").open("w") as lines:
        run = Run(folder, lines, checkpoint_interval_s=1e9)
        train(DynamicDownsamplingTrain.model_validate(spec), run)
    numbers = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (16, 16), dtype=torch.uint8, generator=numbers)
    Image.fromarray(pixels.numpy()).save(folder / "photo.png")
    return run, pixels


def test_the_card_in_the_header_tells_all(trained):
    run, _ = trained
    with safe_open(run.dir / "weights.safetensors", framework="pt") as file:
        card = json.loads(file.metadata()["sextant"])
    (result,) = (event["values"] for event in events(run, "result"))
    assert card["classes"] == [str(digit) for digit in range(10)]
    assert card["test"]["accuracy"] == result["test_accuracy"]
    assert card["spec"]["max_steps"] == 12
    assert card["versions"]["torch"] == torch.__version__
    assert card["dataset"] == {"name": "digits", "sha256": None}
    assert card.keys() >= {"net", "input", "seed", "spec_sha256", "kind"}
    text = (run.dir / "model_card.md").read_text()
    assert f"| accuracy | {result['test_accuracy']:.4f} |" in text
    assert "net.onnx" in text
    assert result["export_gaps"].keys() == {"net.onnx", "net.pt2"}
    assert result["export_seconds"] > 0


def code_blocks():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
def test_the_page_works_without_sextant(trained, number):
    """In an interpreter that sees the installed packages, but neither this code nor its path."""
    run, pixels = trained
    packages = str(Path(torch.__file__).parents[1])
    code = "\n".join(
        [
            f"import sys; sys.path.append({packages!r})",
            "from importlib.util import find_spec",
            "assert not any(map(find_spec, ('models', 'app', 'workers')))",
            code_blocks()[number],
        ]
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, cwd=run.dir, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = load_net(run.dir / "weights.safetensors", "cpu")
    x = images.normalise(pixels[None, :, :, None], loaded.mean, loaded.std)
    with torch.no_grad():
        named = loaded.classes[int(loaded.net(x).argmax())]
    assert done.stdout.split()[0] == ("resnet8" if number == 2 else named)
