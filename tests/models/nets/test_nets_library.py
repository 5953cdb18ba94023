"""Nets of timm and torchvision, and what a training of one starts from."""

import pytest
import torch
from torch import nn

from models.core.errors import DataError, SpecError
from models.nets.build import build_net
from models.nets.layers import layers_of
from models.nets.library import library_classifier
from models.nets.start import check_answer, freeze, load_weights
from tests.models.nets.libraries import library

SMALL = {"name": "resnet8", "width": 16}


@pytest.mark.parametrize(
    ("name", "size"),
    [("test_resnet", (32, 48)), ("test_vit", (32, 32)), ("test_convnext", (64, 64))],
)
def test_nets_of_timm_take_channels_classes_and_sizes(name, size):
    library("timm")
    net = build_net({"library": "timm", "name": name}, 5, 2, size)
    assert net.eval()(torch.zeros(1, 2, *size)).shape == (1, 5)
    half = (size[0] // 2, size[1] // 2)
    assert net(torch.zeros(1, 2, *half)).shape == (1, 5)  # what a cheap step asks for
    assert layers_of(net, 2, size)[-1].shape[0] == 5
    head = library_classifier(net, 5)
    assert head
    assert all(net.get_parameter(parameter).shape[0] == 5 for parameter in head)


def test_nets_of_torchvision():
    library("torchvision")
    net = build_net({"library": "torchvision", "name": "squeezenet1_1"}, 4, 3, (64, 64))
    assert net.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 4)
    with pytest.raises(SpecError, match="take 3 channels, the images have 1"):
        build_net({"library": "torchvision", "name": "resnet18"}, 4, 1)
    with pytest.raises(SpecError, match="makes no 'resnet19'"):
        build_net({"library": "torchvision", "name": "resnet19"}, 4, 3)


def test_weights_of_other_classes_leave_a_fresh_classifier():
    given = build_net(SMALL, 7).state_dict()
    net = build_net(SMALL, 3)
    head = net.head.weight.detach().clone()
    assert load_weights(net, given, 3, "mine") == ["head.bias", "head.weight"]
    state = net.state_dict()
    assert torch.equal(state["stem.weight"], given["stem.weight"])
    assert torch.equal(state["head.weight"], head)
    counts = [name for name in given if name.endswith("num_batches_tracked")]
    for name in counts:  # as in files of old
        del given[name]
    assert load_weights(build_net(SMALL, 7), given, 7, "mine") == []


def test_weights_of_another_net_are_refused_by_name():
    wide = build_net(SMALL | {"width": 32}, 3).state_dict()
    with pytest.raises(DataError, match=r"of mine do not fit.*of another shape \(head.weight"):
        load_weights(build_net(SMALL, 3), wide, 3, "mine")
    deep = build_net(SMALL | {"name": "resnet14"}, 3).state_dict()
    with pytest.raises(DataError, match="30 tensors in one of both"):
        load_weights(build_net(SMALL, 3), deep, 3, "mine")


def test_frozen_parameters():
    net = build_net(SMALL, 3)
    freeze(net, ["stem*", "stages.0.*"])
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert trained == {
        name for name, _ in net.named_parameters() if not name.startswith(("stem", "stages.0."))
    }
    with pytest.raises(SpecError, match=r"'stme\*' names no parameter; the first are stem"):
        freeze(net, ["stme*"])
    with pytest.raises(SpecError, match="leaves no parameter"):
        freeze(net, ["*"])


class Two(nn.Module):
    """Answers twice in training, as nets with auxiliary classifiers do."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x):
        logits = self.norm(x).mean((2, 3)).expand(-1, 3)
        return (logits, logits) if self.training else logits


def test_answers_that_no_training_can_use():
    net = Two()
    with pytest.raises(SpecError, match="its answer as a tuple"):
        check_answer(net, 1, (8, 8), 3)
    assert int(net.norm.num_batches_tracked) == 0
    with pytest.raises(SpecError, match=r"of shape \(2, 5\); a classifier gives 3 logits"):
        check_answer(build_net(SMALL, 5), 3, (8, 8), 3)
    with pytest.raises(SpecError, match="takes no images of 8 x 8 with 4 channels"):
        check_answer(build_net(SMALL, 3), 4, (8, 8), 3)
