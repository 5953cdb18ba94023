"""Two processes on one training: property 10. They talk by gloo, on CPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from models.core import ranks
from models.core.run import Run
from models.data import images, synthetic
from models.freetickets import train as method
from models.freetickets.spec import FreeTicketsTrain
from models.freetickets.topology import share_masks

FIELDS = {
    "kind": "freetickets.train",
    "model": {"name": "resnet8", "width": 16},
    "data": {"dataset": "none"},
    "max_steps": 24,
    "members": 2,
    "batch_size": 8,
    "update_interval": 2,
    "accumulate": 2,
    "ema": 0.9,
    "optimizer": {"lr": 0.01, "nesterov": False},
}


def trained(folder, watch=lambda _: None):
    """The method on a net without batch norms, whose statistics would be those of one rank."""
    pairs = [synthetic.blobs(n, classes=4, size=8, channels=1, seed=n) for n in (64, 32)]
    data = images.from_tensors(*map(list, pairs), ["a", "b", "c", "d"], "cpu")
    build, update = method.build_net, method.Topology.update

    def without_norms(*args):
        net = build(*args)
        for name, module in list(net.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                parent, _, child = name.rpartition(".")
                setattr(net.get_submodule(parent), child, nn.Identity())
        return net

    def watched(topology, *args):
        stats = update(topology, *args)
        watch(topology)
        return stats

    method.build_net, method.Topology.update = without_norms, watched
    folder.mkdir(exist_ok=True)
    try:
        with (folder / "events.jsonl").open("w") as events:
            run = Run(folder, events, checkpoint_interval_s=1e9)
            training = method.prepare(FreeTicketsTrain.model_validate(FIELDS), data, run)
            method.fit_tickets(training)
    finally:
        method.build_net, method.Topology.update = build, update
    masks = {f"mask.{name}": mask for name, mask in training.topology.masks.items()}
    return {name: x.contiguous() for name, x in (training.net.state_dict() | masks).items()}


def rank(folder):
    """What each of the two processes does."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    ranks.start("cpu")
    torch.manual_seed(ranks.rank())
    own = [torch.rand(5, 7) < 0.3, torch.rand(13) < 0.5]
    shared = [mask.clone() for mask in own]
    share_masks(shared)
    actual = everyone(dist, ([m.tolist() for m in own], [m.tolist() for m in shared]))
    assert actual[0][0] != actual[1][0], "the ranks must begin apart"
    assert actual[0][1] == actual[1][1] == actual[0][0], "both end with the masks of the first"
    updates = []

    def same_masks(topology):
        bits = torch.cat([mask.flatten() for mask in topology.masks.values()]).numpy().tobytes()
        assert len(set(everyone(dist, bits))) == 1, "masks differ after an update"
        updates.append(bits)

    state = trained(folder / f"rank{ranks.rank()}", same_masks)
    assert len(set(updates)) == len(updates) > 5, "every update must change the masks"
    weights = torch.cat([x.flatten() for x in state.values() if x.is_floating_point()])
    a, b = everyone(dist, weights.tolist())
    assert a == b, "weights differ at the end"
    if ranks.is_first():
        save_file(state, folder / "state.safetensors")
    ranks.leave()


def everyone(dist, value):
    actual = [None, None]
    dist.all_gather_object(actual, value)
    return actual


@pytest.mark.slow
def test_two_ranks_have_one_topology(tmp_path):
    """Property 10: one set of masks after every update, and the training is that of one process.

    Gradients of halves of a batch are averaged, so weights agree with one process up to rounding.
    """
    root = str(Path(__file__).parents[3])
    code = f"import pathlib, {__name__} as t; t.rank(pathlib.Path({str(tmp_path)!r}))"
    script = tmp_path / "rank.py"
    script.write_text(code)
    path = os.pathsep.join([root, str(Path(__file__).parent)])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    together, alone = load_file(tmp_path / "state.safetensors"), trained(tmp_path / "alone")
    assert together.keys() == alone.keys()
    for name, expected in alone.items():
        if name.startswith("mask."):
            assert (together[name] == expected).double().mean() == pytest.approx(1, abs=0.002), name
        else:
            torch.testing.assert_close(together[name], expected, rtol=1e-3, atol=1e-4, msg=name)
