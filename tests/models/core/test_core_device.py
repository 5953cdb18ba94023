"""Seeded streams that do not influence each other."""

import torch

from models.core import device


def draw(*key):
    return torch.rand(8, generator=device.generator(*key)).tolist()


def test_streams_depend_on_their_key_alone():
    assert draw(1, "order", 5) == draw(1, "order", 5)
    others = [draw(2, "order", 5), draw(1, "augment", 5), draw(1, "order", 6)]
    assert all(other != draw(1, "order", 5) for other in others)


def test_streams_leave_the_global_one():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    draw(3, "order", 0)
    assert torch.equal(torch.rand(2), expected)


def test_precision():
    assert device.is_bf16("bf16", "cpu")
    assert not device.is_bf16("auto", "cpu")
    assert not device.is_bf16("fp32", "cuda")
    assert device.describe("cpu")["device"] == "cpu"


def test_nets_whose_way_back_overruns_on_a_cpu_are_not_nhwc():
    def order(where, wanted, *shape, **options):
        net = torch.nn.Sequential(torch.nn.Conv2d(*shape, **options))
        return device.memory_format(net, where, channels_last=wanted)

    nhwc, nchw = torch.channels_last, torch.contiguous_format
    assert order("cpu", True, 8, 16, 1, stride=2) == nchw
    assert order("cpu", True, 32, 32, 1, stride=2, groups=4) == nchw
    assert order("cuda", True, 8, 16, 1, stride=2) == nhwc
    assert order("cpu", True, 16, 16, 1, stride=2) == nhwc
    assert order("cpu", True, 8, 16, 3, stride=2) == nhwc
    assert order("cpu", False, 16, 16, 3) == nchw
