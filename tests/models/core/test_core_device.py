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
