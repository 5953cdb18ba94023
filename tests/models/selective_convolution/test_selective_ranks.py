"""Two processes on one training: pitfall 11, property 12. By gloo, on CPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.core import ranks
from models.core.run import Run
from models.data import images, synthetic
from models.selective_convolution import train as method
from models.selective_convolution.rounds import COLUMNS, Rounds, units_of
from models.selective_convolution.spec import SelectiveConvolutionTrain
from models.supervised.hooks import SubRun

FIELDS = {
    "kind": "selective_convolution.train",
    "model": {"name": "densenet40", "growth": 4, "layers": 1, "compression": 0.5},
    "data": {"dataset": "none"},
    "epochs": 6,
    "batch_size": 16,
    "selective": {"threshold": 0.2},
}


def state_of(net):
    """All that a round may change, as bytes."""
    parts = [x for unit in units_of(net).values() for x in unit.state_dict().values()]
    return torch.cat([x.detach().double().flatten() for x in parts]).numpy().tobytes()


def everyone(value):
    actual = [None, None]
    torch.distributed.all_gather_object(actual, value)
    return actual


def rank(folder):
    """What each of the two processes does; their own random numbers differ."""
    torch.set_num_threads(1)
    ranks.start("cpu")
    pairs = [synthetic.blobs(n, classes=4, size=8, channels=1, seed=n) for n in (64, 32)]
    data = images.from_tensors(*map(list, pairs), ["a", "b", "c", "d"], "cpu")
    spec = SelectiveConvolutionTrain.model_validate(FIELDS)
    net = method.new_net(spec, data, "cpu")
    torch.manual_seed(ranks.rank())
    seen, change = [], Rounds._report

    def watched(rounds, *args):
        change(rounds, *args)
        first, second = everyone(state_of(net))
        assert first == second, "units differ after a round"
        seen.append(first)

    Rounds._report = watched
    own = folder / f"rank{ranks.rank()}"
    own.mkdir()
    with (own / "events.jsonl").open("w") as events:
        run = Run(own, events, checkpoint_interval_s=1e9)
        rounds, _ = method.fit_selective(net, spec, data, run, SubRun())
    assert len(set(seen)) == int(rounds.done) == 3
    assert rounds.record[:, :, COLUMNS.index("reallocated_now")].any(), "nothing was used again"
    first, second = everyone([p.tolist() for p in net.parameters()])
    assert first == second, "weights differ at the end"
    ranks.leave()


@pytest.mark.slow
def test_two_ranks_have_one_allocation(tmp_path):
    """Gates, sources, shifts, weights and statistics of the units agree after every round."""
    folder = Path(__file__).parent
    script = tmp_path / "rank.py"
    script.write_text(f"import pathlib, {__name__} as t; t.rank(pathlib.Path({str(tmp_path)!r}))")
    path = os.pathsep.join([str(folder.parents[2]), str(folder)])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
