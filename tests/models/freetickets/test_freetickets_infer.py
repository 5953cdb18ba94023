"""Ways to run an ensemble, exports, sparse layers: property 13; masks of ranks: property 10."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from models.freetickets import infer, masks, sparse
from models.freetickets.ensemble import mixture
from models.nets.build import build_net

NETS = [
    {"name": "resnet8", "width": 16},
    {"name": "resnet50", "width": 16},
    {"name": "wide_resnet", "depth": 10, "widen": 1},
]


def members(spec, count=3):
    """Nets with statistics of their own."""
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        net = build_net(spec, 5, channels=2)
        for _ in range(2):
            net(torch.randn(16, 2, 12, 12))
        found.append(net.eval())
    return found


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


@torch.no_grad()
def test_exported_program_with_any_batch():
    """torch.export of the folded ensemble, batch left open, gives the same log-probabilities."""
    nets, x = members(NETS[2], 2), torch.randn(4, 2, 12, 12)
    ensemble = infer.Ensemble([infer.fold(net) for net in nets]).eval()
    batch = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(ensemble, (x,), dynamic_shapes=(batch,)).module()
    for other in (x, torch.randn(7, 2, 12, 12)):
        mean, logs = program(other)
        plain = torch.stack([net(other).log_softmax(1) for net in nets])
        torch.testing.assert_close(logs, plain, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mean, mixture(plain).float(), rtol=1e-5, atol=1e-5)


def test_csr_is_the_dense_layer():
    draw = torch.Generator().manual_seed(0)
    mask = masks.random_mask(32 * 48, 150, draw).view(32, 48)
    weight = torch.randn(32, 48, generator=draw) * mask
    x, bias = torch.randn(7, 48, generator=draw), torch.randn(32, generator=draw)
    found = sparse.CsrLinear(weight, bias)(x)
    torch.testing.assert_close(found, functional.linear(x, weight, bias))
    told = sparse.time_csr(weight, x, rounds=2)
    assert told.kept == ("csr" if told.sparse_ms < told.dense_ms else "dense")


def test_only_capped_masks_go_to_sparse_tensor_cores():
    """What cannot run there stays dense and says why."""
    draw = torch.Generator().manual_seed(0)
    capped = masks.capped_mask(torch.Size((32, 64)), 600, draw)
    assert sparse.is_24(capped)
    full = torch.ones(32, 64)
    assert not sparse.is_24(full != 0)
    told = sparse.time_24(full, torch.randn(4, 64), rounds=1)
    assert (told.kept, told.reason) == ("dense", "not 2 of 4")
    told = sparse.time_24(capped * full, torch.randn(4, 64), rounds=1)
    assert told.kept == "dense"
    assert told.reason.startswith("refused")


RANK = """
import hashlib, torch, torch.distributed as dist
from models.core import ranks
from models.freetickets.topology import share_masks
ranks.start("cpu")
torch.manual_seed(ranks.index())
masks = [torch.rand(5, 7) < 0.3, torch.rand(13) < 0.5]
own = torch.cat([m.flatten() for m in masks]).tolist()
share_masks(masks)
bits = torch.cat([m.flatten() for m in masks])
found = [None, None]
dist.all_gather_object(found, (own, bits.tolist()))
assert found[0][0] != found[1][0], "the ranks must begin apart"
assert found[0][1] == found[1][1] == found[0][0], "both end with the masks of the first"
dist.destroy_process_group()
"""


def test_ranks_take_the_masks_of_the_first(tmp_path):
    """Property 10: packed bits from rank 0, the same on both."""
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    root = str(Path(__file__).parents[3])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
