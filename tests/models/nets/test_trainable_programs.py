"""Nets from exported programs: trained as the nets that they were exported from."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.core.errors import DataError, SpecError
from models.data import programs
from models.nets.build import build_net
from models.nets.exported import load_program
from models.nets.layers import layers_of
from models.nets.trainable import load_trainable
from tests.models.nets.libraries import library
from tests.models.nets.programs import Residual, exported


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The small net, exported in both modes: the net and the path of each."""
    folder = tmp_path_factory.mktemp("programs")
    torch.manual_seed(3)
    net = Residual(classes=9)
    return {
        mode: exported(net.train(mode == "train"), folder / f"{mode}.pt2")
        for mode in ("train", "eval")
    } | {"net": net}


def losses(net, steps, size, channels, classes, *, bf16=False):
    """Of a few steps of AdamW and SGD in turn, seeded; the net is changed."""
    numbers = torch.Generator().manual_seed(1)
    trained = [p for p in net.parameters() if p.requires_grad]
    found = []
    for make in (torch.optim.SGD, torch.optim.AdamW):
        optimizer = make(trained, lr=0.01)
        for step in range(steps // 2):
            torch.manual_seed(step)
            x = torch.randn(6, channels, size, size, generator=numbers)
            labels = torch.arange(6) % classes
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                loss = functional.cross_entropy(net(x).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
    return found


def compare(net, path, size, *, channels=1, classes=4, steps=30, bf16=False):
    """The program beside its net over a training: losses and all tensors are the same bits."""
    program, net = load_trainable(path, classes).train(), net.train()
    one = losses(net, steps, size, channels, classes, bf16=bf16)
    assert one == losses(program, steps, size, channels, classes, bf16=bf16)
    state = net.state_dict()
    for name, tensor in program.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    x = torch.randn(3, channels, size, size)
    assert torch.equal(program.eval()(x), net.eval()(x))


@pytest.mark.parametrize("bf16", [False, True])
def test_losses_are_those_of_the_net(archives, bf16):
    """30 steps with norms, dropout, stochastic depth, attention, ties and a frozen bias."""
    compare(copy.deepcopy(archives["net"]), archives["train"], 16, classes=9, bf16=bf16)
    program = load_trainable(archives["train"], 9)
    assert program.was_training
    assert not program.get_parameter("down.bias").requires_grad
    assert "attend.in_proj_weight" in dict(program.named_parameters())


class Plain(nn.Module):
    """Norms that count, and dropout: what an export in eval mode keeps."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8, momentum=None)
        self.maps, self.drop, self.head = nn.Dropout2d(0.1), nn.Dropout(0.2), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.drop(self.maps(self.norm(self.conv(x)).relu()).mean((2, 3))))


def test_an_export_in_eval_mode_trains_as_its_net(tmp_path):
    net = Plain().eval()
    path = exported(net, tmp_path / "net.pt2", 12)
    compare(net, path, 12)
    assert not load_trainable(path, 4).was_training


def test_norms_that_rested_in_a_training_export_rest(tmp_path):
    norms = nn.Sequential(nn.BatchNorm2d(1).eval(), nn.BatchNorm2d(1))
    net = nn.Sequential(norms, nn.Flatten(), nn.Linear(16, 4))
    program = load_trainable(exported(net, tmp_path / "n.pt2", 4, open_sides=False), 4).train()
    program(torch.randn(4, 1, 4, 4))
    assert torch.equal(program.get_buffer("0.0.running_mean"), torch.zeros(1))
    assert int(program.get_buffer("0.0.num_batches_tracked")) == 0
    assert int(program.get_buffer("0.1.num_batches_tracked")) == 1


def test_the_description_makes_the_net_again(archives):
    program = load_trainable(archives["train"], 9).eval()
    again = build_net(program.architecture, 9)
    again.load_state_dict(program.state_dict())
    x = torch.randn(2, 1, 16, 16)
    assert torch.equal(again.eval()(x), program(x))
    assert torch.equal(copy.deepcopy(program)(x), program(x))


def test_a_linear_head_of_other_classes_starts_anew(archives):
    net = archives["net"]
    program = load_trainable(archives["eval"], 3).eval()
    assert program.fresh == ["head.weight", "head.bias"]
    assert program(torch.randn(2, 1, 16, 16)).shape == (2, 3)
    bound = 16**-0.5
    assert 0.5 * bound < float(program.get_parameter("head.weight").detach().abs().max()) <= bound
    assert torch.equal(program.get_parameter("stem.weight"), net.stem.weight)
    again = build_net(program.architecture, 3)
    again.load_state_dict(program.state_dict())


def test_an_answer_of_other_classes_without_a_linear_head_is_refused(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 9), nn.Softmax(1))
    path = exported(net, tmp_path / "net.pt2", 4, open_sides=False)
    with pytest.raises(
        SpecError, match="gives 9 numbers for an image, and the data has 3"
    ) as error:
        load_trainable(path, 3)
    assert error.value.pointer == "/model/dataset"


def test_layers_are_read_under_the_names_of_the_net(archives):
    """What pools filters and masks weights: also the tied and the joined ones."""
    net = archives["net"]
    program = load_trainable(archives["eval"], 9)
    read = {layer.parameter: layer for layer in layers_of(program, 1, (16, 16))}
    own = {layer.parameter: layer for layer in layers_of(net, 1, (16, 16))}
    assert read.keys() >= {"stem.weight", "down.weight", "first.weight", "head.weight"}
    assert "attend.in_proj_weight" in read
    for name in ("stem.weight", "down.weight", "first.weight", "head.weight"):
        assert read[name] == own[name]


@pytest.mark.slow  # torch loads its compiler for it
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch's own
def test_layers_of_a_decomposed_program_are_found(tmp_path):
    """Convolutions and products with transposed weights, as layers; a norm of its own kind."""
    conv = nn.Conv2d(1, 4, 3, padding="same")
    net = nn.Sequential(conv, nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 8), nn.ReLU())
    net = nn.Sequential(*net, nn.Linear(8, 4, bias=False)).eval()
    x = torch.randn(3, 1, 4, 4)
    batch = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(net, (x,), dynamic_shapes=batch)
    path, before = tmp_path / "net.pt2", net(x)
    torch.export.save(program.run_decompositions(), path)
    made = load_trainable(path, 4)
    torch.testing.assert_close(made.eval()(x), before)
    names = {layer.parameter for layer in layers_of(made, 1, (4, 4))}
    assert names == {"0.weight", "3.weight", "5.weight"}
    net.train()(x)
    made.train()(x)
    torch.testing.assert_close(made.get_buffer("1.running_mean"), net[1].running_mean)
    torch.export.save(program, path)
    kept = {layer.parameter for layer in layers_of(load_trainable(path, 4), 1, (4, 4))}
    assert kept == names
    trained = torch.export.export(net.train(), (x,), dynamic_shapes=batch).run_decompositions()
    torch.export.save(trained, path)
    with pytest.raises(DataError, match="buffer mutation beside its answer"):
        load_trainable(path, 4)


class Endless(nn.Module):
    """Infinite constants, and norms that go by their input in either mode."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.InstanceNorm2d(1), nn.Linear(4, 4)
        self.filters = nn.Parameter(torch.randn(4, 1, 3, 3))

    def forward(self, x):
        filters = functional.batch_norm(self.filters.reshape(1, 4, -1), None, None, training=True)
        x = torch.conv2d(self.norm(x), filters.reshape(4, 1, 3, 3)).amax((2, 3))
        x = self.head(x).masked_fill(x > 1e9, float("-inf"))
        return x.minimum(torch.full_like(x, float("inf")))


def test_infinities_and_norms_without_statistics(tmp_path):
    net = Endless().eval()
    path = exported(net, tmp_path / "net.pt2", 8)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(load_program(path, "cpu")(x), net(x))
    assert torch.equal(load_trainable(path, 4)(x), net(x))


class Writes(nn.Module):
    """Writes into a weight, or draws without making up for it."""

    def __init__(self, what):
        super().__init__()
        self.what, self.head = what, nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        x = x.mean((1, 2))[:, :4]
        if self.what == "buffer":
            self.calls.add_(1)
        if self.what == "view":
            self.calls[:1].mul_(2)
        if self.what == "draw":
            x = x * x.new_empty(x.shape[0], 1).bernoulli_(0.5)
        return self.head(x) + self.calls


@pytest.mark.parametrize(
    ("what", "message"),
    [("buffer", "by add_"), ("view", "by mul_"), ("draw", "does not divide by the mean")],
)
def test_programs_that_no_training_can_repeat_are_refused(what, message, tmp_path):
    path = exported(Writes(what), tmp_path / "net.pt2", open_sides=False)
    with pytest.raises(DataError, match=message):
        load_trainable(path, 4)


def test_weights_that_share_memory_in_part_are_refused(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[2].weight = nn.Parameter(net[1].weight.detach()[:, :4])
    path = exported(net, tmp_path / "net.pt2", 4, open_sides=False)
    with pytest.raises(DataError, match=r"'1\.weight' and '2\.weight' of the program share memory"):
        load_trainable(path, 4)


@pytest.mark.parametrize("name", ['a");print("b', "graph"])
def test_names_that_torch_fx_would_run_or_replace_are_refused(name, tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    program = programs.read_program(exported(net, tmp_path / "n.pt2", 4, open_sides=False))
    text = programs.to_text(program).replace('"1.weight"', json.dumps(f"{name}.weight"))
    with pytest.raises(DataError, match=r"which torch\.fx cannot name"):
        build_net({"name": "program", "graph": text}, 4)


def test_images_of_another_size_than_exported(tmp_path):
    path = exported(Plain().eval(), tmp_path / "net.pt2", 12, open_sides=False)
    with pytest.raises(ValueError, match="a height of 12, and was given 8"):
        load_trainable(path, 4)(torch.zeros(2, 1, 8, 8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "fields"),
    [
        ("resnet18", 64, {}),
        ("vit_tiny_patch16_224", 64, {"img_size": 64, "drop_path_rate": 0.2, "drop_rate": 0.1}),
        ("efficientnet_b0", 64, {"drop_path_rate": 0.2}),
    ],
)
def test_losses_of_nets_of_timm(name, size, fields, tmp_path):
    net = library("timm").create_model(name, num_classes=4, **fields).train()
    sides = not name.startswith("vit")
    path = exported(net, tmp_path / "net.pt2", size, channels=3, open_sides=sides)
    compare(net, path, size, channels=3)
