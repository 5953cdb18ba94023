"""The Triton programs against float64: output, statistics, all gradients; repeats and graphs."""

import pytest
import torch

from models.nets.preactivation import Unit
from tests.bench.selective import moved
from tests.bench.selective_checks import ODD, Bench, alike, compare

pytestmark = [pytest.mark.gpu]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("channels", "size"), ODD)
def test_programs_are_the_definition(channels, size, training, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    unit = moved(Unit(channels, 12, 1), 0.5).train(training)
    gaps = compare(unit, torch.randn(4, channels, *size), "cuda")
    assert max(gaps.values()) < 1e-3


def test_repeats_graphs_and_compilation_agree(tmp_path):
    assert alike(Bench(tmp_path / "found.json", 60, quick=True))["repeats bit-equal"]
