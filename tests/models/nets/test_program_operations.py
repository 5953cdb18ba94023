"""What programs of other families need: indices, regions of other precision, fills, moves."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from models.core.errors import DataError
from models.data import programs
from models.data.program_regions import check_indices
from models.nets.exported import load_program
from models.nets.trainable import load_trainable
from tests.models.nets.programs import exported


class Windows(nn.Module):
    """Attention of one window with a table of relative positions and a mask that is filled in."""

    def __init__(self):
        super().__init__()
        self.qkv, self.head = nn.Conv2d(1, 12, 2, stride=2), nn.Linear(4, 4)
        self.table = nn.Parameter(torch.randn(7, 1))
        self.register_buffer("places", torch.arange(16)[:, None].sub(torch.arange(16)) % 7)

    def forward(self, x):
        q, k, v = self.qkv(x).flatten(2).transpose(1, 2).chunk(3, 2)
        bias = self.table[self.places.view(-1)].view(16, 16)
        mask = torch.zeros(16, 16, device=x.device)
        mask[:, 8:].fill_(-1.0)
        mask[:4].copy_(mask[4:8] * 2)
        mask[0:1].zero_()
        with torch.autocast(x.device.type, enabled=False):
            scores = (q.float() @ k.float().transpose(1, 2)) + bias + mask
        hidden = (~(scores > 9)).type_as(scores) * scores
        return self.head((hidden.softmax(2) @ v).mean(1))


class Arranged(nn.Module):
    """Patches and back, repeated and reshaped as others are, scaled sums."""

    def __init__(self):
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.ones(4)), nn.Linear(4, 4)

    def forward(self, x):
        patches = functional.unfold(x, 2, stride=2)
        whole = functional.fold(patches, (8, 8), 2, stride=2)
        rows = whole.unfold(2, 4, 4).reshape_as(whole).repeat_interleave(2, dim=1)
        y = rows.mean(1)[:, :4, :4].mean(1)
        return self.head(torch.addcmul(y, self.scale, y))


@pytest.mark.parametrize("make", [Windows, Arranged])
@pytest.mark.parametrize("bf16", [False, True])
def test_such_nets_give_what_they_gave(make, bf16, tmp_path):
    """Trained for a step and used, in either precision; by both readers."""
    torch.manual_seed(1)
    net = make().train()
    path = exported(net, tmp_path / "net.pt2", 8, open_sides=False)
    x, gradients = torch.randn(3, 1, 8, 8), []
    program = load_trainable(path, 4).train()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        for each in (net, program):
            each(x).float().square().sum().backward()
            gradients.append({name: p.grad for name, p in each.named_parameters()})
        for name, gradient in gradients[0].items():
            assert torch.equal(gradients[1][name], gradient), name
        expected = net.eval()(x)
        assert torch.equal(program.eval()(x), expected)
        assert torch.equal(load_program(path, "cpu")(x), expected)


def test_regions_take_their_place_among_the_nodes(tmp_path):
    path = exported(Windows().eval(), tmp_path / "net.pt2", 8, open_sides=False)
    program = programs.read_program(path)
    targets = [node["target"] for node in program.nodes]
    begins, ends = targets.index("begin_autocast"), targets.index("end_autocast")
    assert "torch.ops.aten.matmul.default" in targets[begins:ends]
    again = programs.from_text(programs.to_text(program))
    assert [node["target"] for node in again.nodes] == targets


def index_node(name):
    listed = {"as_optional_tensors": [{"as_none": True}, {"as_tensor": {"name": name}}]}
    return {
        "target": "torch.ops.aten.index.Tensor",
        "inputs": [
            {"name": "self", "arg": {"as_tensor": {"name": "table"}}},
            {"name": "indices", "arg": listed},
        ],
        "outputs": [{"as_tensor": {"name": "out"}}],
    }


def constant(numbers, dtype):
    content = np.asarray(numbers, np.int64).tobytes()
    form = dtype, [len(numbers)], [1], 0, "places", False, False, "constants/0"
    return programs.Weight(content, *form)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (constant([0, 7], 5), r"0 to 7 of an axis of 7 by 'places'"),
        (constant([-8, 6], 5), r"-8 to 6"),
        (constant([0, 1], 12), "no constant of whole numbers"),  # a mask
        (None, "no constant of whole numbers"),
    ],
)
def test_indices_that_may_lie_outside_are_refused(weight, message):
    shapes = {"table": {"sizes": [{"as_int": 3}, {"as_int": 7}]}}
    check_indices([index_node("p")], {"p": constant([-7, 6], 5)}, shapes)
    weights = {} if weight is None else {"p": weight}
    with pytest.raises(DataError, match=message):
        check_indices([index_node("p")], weights, shapes)
    with pytest.raises(DataError, match="open axis"):
        check_indices([index_node("p")], {"p": constant([0], 5)}, {})


class Fills(nn.Module):
    """Fills a part of its images."""

    def forward(self, x):
        x[:, :, :1].fill_(0.0)
        return x.flatten(1)[:, :4]


def test_fills_of_images_are_refused(tmp_path):
    path = exported(Fills(), tmp_path / "net.pt2", 4, open_sides=False)
    with pytest.raises(DataError, match="writes into its images or weights by fill_"):
        load_program(path, "cpu")


def test_deep_regions_and_strange_nodes_are_refused(tmp_path):
    path = exported(Windows().eval(), tmp_path / "net.pt2", 8, open_sides=False)
    text = programs.to_text(programs.read_program(path))
    with pytest.raises(DataError, match="not supported"):
        programs.from_text(text.replace("torch.ops.aten.matmul.default", "torch.load"))
    with pytest.raises(DataError, match="damaged"):
        programs.from_text(json.dumps(json.loads(text)[:-1]))
