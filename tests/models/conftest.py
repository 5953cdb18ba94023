"""Runs over folders of their own, small data, machines that repeat."""

from contextlib import ExitStack

import pytest
import torch

from models.core.run import Run
from models.data import images, synthetic


@pytest.fixture
def new_run(tmp_path):
    """Makes runs; ``resume`` and ``step`` name the run and the checkpoint to go on from."""
    with ExitStack() as stack:
        count = 0

        def make(resume=None, step=None, device="cpu"):
            nonlocal count
            count += 1
            folder = tmp_path / f"run{count}"
            (folder / "resume").mkdir(parents=True)
            if resume is not None:
                name = f"step-{step:08d}.safetensors"
                saved = (resume.dir / "checkpoints" / name).read_bytes()
                (folder / "resume" / name).write_bytes(saved)
            events = stack.enter_context((folder / "events.jsonl").open("w"))
            return Run(folder, events, device=device, checkpoint_interval_s=1e9)

        yield make


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tiny nets are slower on more threads, and much slower beside other processes."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data():
    """Four classes of 8 x 8 grey patterns: 64 training and 32 test images."""
    train = synthetic.blobs(64, classes=4, size=8, channels=1, seed=1)
    test = synthetic.blobs(32, classes=4, size=8, channels=1, seed=2)
    return images.from_tensors(list(train), list(test), ["a", "b", "c", "d"], "cpu")


@pytest.fixture
def _deterministic(monkeypatch):
    """Else two runs on a GPU differ: cuDNN times its algorithms and adds in any order."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
