"""The Triton programs against float64: output, statistics, all gradients; repeats and graphs."""

import jaxtyping
import pytest
import torch

from models.nets.selective.compact_gpu import tabulated
from models.nets.selective.norm_gpu import table_size, tabulate
from tests.bench.selective_checks import LIMITS, ODD, WAYS, Bench, alike, gaps_of

pytestmark = [pytest.mark.gpu]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("channels", "size"), ODD)
def test_programs_are_the_definition(channels, size, training, way, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    gaps = gaps_of(way, channels, size, "cuda", training=training)
    assert max(gaps.values()) < LIMITS[way]


@pytest.mark.filterwarnings("ignore:.*script_method.* is deprecated:DeprecationWarning")
def test_repeats_graphs_and_compilation_agree(tmp_path, monkeypatch):
    monkeypatch.setattr(
        jaxtyping.config, "jaxtyping_disable", True
    )  # its checks cannot be compiled
    assert alike(Bench(tmp_path / "found.json", 60, quick=True))["repeats bit-equal"]


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_table_of_an_export_is_that_of_training(share):
    source = torch.full((100,), -1)
    source[: round(100 * share)] = torch.arange(round(100 * share)) * 7 % 31
    source = source[torch.randperm(100, generator=torch.Generator().manual_seed(0))].cuda()
    actual = torch.full((table_size(100),), 7, dtype=torch.int32, device="cuda")
    tabulate(source, actual, 100)
    assert torch.equal(actual, tabulated(source))


def test_a_recorded_graph_keeps_what_it_reads(tmp_path):
    """Memory that nothing holds goes back to the device before the next graph is recorded."""
    actual = []

    def recorded(bench):
        x = torch.ones(2**24, device="cuda")  # large enough for a segment of its own
        return bench.graph(lambda: actual.append(x.sum()))

    replay = recorded(Bench(tmp_path / "found.json", 60, quick=True))
    torch.cuda.empty_cache()
    replay()
    assert actual[-1].item() == 2**24
