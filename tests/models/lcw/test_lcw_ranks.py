"""Two processes on one job, by gloo on CPUs: every stage trains what one process trains."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn

from models.core import ranks
from models.core.run import Run
from models.lcw import setup, train
from models.lcw.spec import LcwTrain
from tests.smallest import smallest

PHASE = {"max_steps": 6, "batch_size": 32, "validate_every": 3}
FIELDS = {
    **smallest("lcw.train"),
    "phase1": {**PHASE, "objective": "cw2"},
    "phase2": PHASE,
    "evaluation": {"num_samples": 100, "baselines": ["cwae", "wae_mmd", "swae"]},
}


def trained(folder):
    """All nets after all stages, without batch norms, whose statistics are a process's own."""
    folder.mkdir()
    with (folder / "events.jsonl").open("w") as events:
        run = Run(folder, events, checkpoint_interval_s=1e9)
        spec = LcwTrain.model_validate(FIELDS)
        data = setup.load(spec, run)
        training = setup.make_training(spec, data, run)
        for module in list(training.nets.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                    setattr(module, name, nn.Identity())
        for number, name in enumerate(spec.steps()):
            training.train(number, train._stage(training, data, name))
    return training.nets.state_dict()


def rank(folder):
    """What each of the two processes does."""
    torch.set_num_threads(1)
    ranks.start("cpu")
    state = trained(folder / f"rank{ranks.rank()}")
    others = [None, None]
    dist.all_gather_object(others, {name: x.tolist() for name, x in state.items()})
    assert others[0] == others[1], "nets differ"
    if ranks.is_first():
        save_file({name: x.contiguous() for name, x in state.items()}, folder / "nets.safetensors")
    ranks.leave()


@pytest.mark.slow
def test_two_ranks_train_what_one_does(tmp_path):
    """Gradients of whole samples: weights agree up to rounding, and both processes hold one net."""
    script = tmp_path / "rank.py"
    script.write_text(f"import pathlib, {__name__} as t; t.rank(pathlib.Path({str(tmp_path)!r}))")
    path = os.pathsep.join([str(Path(__file__).parents[3]), str(Path(__file__).parent)])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    together, alone = load_file(tmp_path / "nets.safetensors"), trained(tmp_path / "alone")
    assert together.keys() == alone.keys()
    for name, expected in alone.items():
        torch.testing.assert_close(together[name], expected, rtol=1e-3, atol=2e-4, msg=name)
