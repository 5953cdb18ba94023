"""Ways to run an ensemble, and layers that skip zeros."""

import pytest
import torch
from torch.nn import functional

from models.freetickets import infer, masks, sparse
from models.nets.build import build_net

NETS = [
    {"name": "resnet8", "width": 16},
    {"name": "resnet50", "width": 16},
    {"name": "wide_resnet", "depth": 10, "widen": 1},
]


def members(spec, count=3):
    """Nets with statistics of their own."""
    actual = []
    for seed in range(count):
        torch.manual_seed(seed)
        net = build_net(spec, 5, channels=2)
        for _ in range(2):
            net(torch.randn(16, 2, 12, 12))
        actual.append(net.eval())
    return actual


@pytest.mark.parametrize("spec", NETS, ids=lambda spec: spec["name"])
@torch.no_grad()
def test_every_way_gives_the_same_answer(spec):
    """Folding, grouping and vmap change nothing but rounding."""
    nets, x = members(spec), torch.randn(4, 2, 12, 12)
    expected = torch.stack([net(x) for net in nets])
    folded = [infer.fold(net) for net in nets]
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in folded[0].modules()) < sum(
        isinstance(m, torch.nn.BatchNorm2d) for m in nets[0].modules()
    )
    for some in (nets, folded):
        for name, way in infer.ways(some).items():
            torch.testing.assert_close(way(x), expected, rtol=1e-4, atol=1e-4, msg=name)
    choice = infer.fastest(folded, x, rounds=1)
    assert choice.name in choice.milliseconds
    assert set(choice.milliseconds) == {"sequential", "grouped", "vmap"}


def test_csr_is_the_dense_layer():
    draw = torch.Generator().manual_seed(0)
    mask = masks.random_mask(32 * 48, 150, draw).view(32, 48)
    weight = torch.randn(32, 48, generator=draw) * mask
    x, bias = torch.randn(7, 48, generator=draw), torch.randn(32, generator=draw)
    actual = sparse.CsrLinear(weight, bias)(x)
    torch.testing.assert_close(actual, functional.linear(x, weight, bias))
    timed = sparse.time_csr(weight, x, rounds=2)
    assert timed.kept == ("csr" if timed.sparse_ms < timed.dense_ms else "dense")


def test_csr_of_more_rows_than_a_chunk():
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 32, generator=draw) * (torch.rand(24, 32, generator=draw) < 0.1)
    x = torch.randn(2 * sparse.CHUNK + 5, 32, generator=draw)
    torch.testing.assert_close(sparse.CsrLinear(weight, None)(x), x @ weight.T)


@pytest.mark.parametrize("faster", [True, False])
@torch.no_grad()
def test_each_layer_is_what_its_timing_says(monkeypatch, faster):
    """Where CSR is faster it takes the layer's place, and the answer is the same."""
    net = infer.fold(members(NETS[1], 1)[0])
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and name not in ("stem", "head"):
            module.weight.mul_(torch.rand_like(module.weight) < 0.2)
    times = {"dense": 2.0, "csr": 1.0 if faster else 3.0}
    monkeypatch.setattr(sparse.timing, "medians", lambda ways, *_: {k: times[k] for k in ways})
    x = torch.randn(3, 2, 12, 12)
    chosen, rows = sparse.choose_layers(net, x)
    torch.testing.assert_close(chosen(x), net(x), rtol=1e-4, atol=1e-5)
    of = {row.layer: row for row in rows}
    windows = {name for name, row in of.items() if row.kernel > 1}
    assert {of[name].reason for name in windows} == {
        "no sparse kernel for windows larger than 1 x 1"
    }
    assert of["head"].reason == "dense by rule"
    others = set(of) - windows - {"head"}
    assert {of[name].kept for name in others} == {"csr" if faster else "dense"}
    replaced = [m for m in chosen.modules() if isinstance(m, sparse.CsrLinear)]
    assert len(replaced) == (len(others) if faster else 0)
    assert not any(isinstance(m, sparse.CsrLinear) for m in net.modules())


@torch.no_grad()
def test_a_way_that_cannot_run_or_differs_is_left_out(monkeypatch):
    """Both with the reason; the fastest of the others is chosen."""
    nets, x = members(NETS[0], 2), torch.randn(2, 2, 12, 12)

    def refuse(_):
        raise RuntimeError("not implemented\nat length")

    some = {**infer.ways(nets), "vmap": refuse, "grouped": lambda x: torch.zeros(2, len(x), 5)}
    monkeypatch.setattr(infer, "ways", lambda _: some)
    choice = infer.fastest(nets, x, rounds=1)
    assert (choice.name, set(choice.milliseconds)) == ("sequential", {"sequential"})
    assert choice.left_out["vmap"] == "refused: not implemented"
    assert choice.left_out["grouped"].startswith("its logits differ by")


def test_only_capped_masks_go_to_sparse_tensor_cores():
    """What cannot run there stays dense and says why."""
    draw = torch.Generator().manual_seed(0)
    capped = masks.capped_mask(torch.Size((32, 64)), 600, draw)
    assert sparse.is_24(capped)
    full = torch.ones(32, 64)
    assert not sparse.is_24(full != 0)
    timed = sparse.time_24(full, torch.randn(4, 64), rounds=1)
    assert (timed.kept, timed.reason) == ("dense", "not 2 of 4")
    timed = sparse.time_24(capped * full, torch.randn(4, 64), rounds=1)
    assert timed.kept == "dense"
    assert timed.reason.startswith("refused")
