"""Runs over folders of their own."""

from contextlib import ExitStack

import pytest
import torch

from models.core.run import Run


@pytest.fixture
def new_run(tmp_path):
    """Makes runs; ``resume`` and ``step`` name the run and the checkpoint to go on from."""
    with ExitStack() as stack:
        count = 0

        def make(resume=None, step=None):
            nonlocal count
            count += 1
            folder = tmp_path / f"run{count}"
            (folder / "resume").mkdir(parents=True)
            if resume is not None:
                name = f"step-{step:08d}.safetensors"
                saved = (resume.dir / "checkpoints" / name).read_bytes()
                (folder / "resume" / name).write_bytes(saved)
            events = stack.enter_context((folder / "events.jsonl").open("w"))
            return Run(folder, events, checkpoint_interval_s=1e9)

        yield make


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tiny nets are slower on more threads, and much slower beside other processes."""
    torch.set_num_threads(1)
