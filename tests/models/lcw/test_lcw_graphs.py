"""Stages recorded as CUDA graphs train as eager steps do."""

from dataclasses import replace

import pytest
import torch

from models.core.run import Run
from models.data import synthetic
from models.lcw import setup
from models.lcw.spec import LcwTrain

SPEC = {
    "kind": "lcw.train",
    "data": {"dataset": "given"},
    "arch": {"preset": "mlp", "latent_dim": 4, "width": 32, "generator": {"depth": 2, "width": 32}},
    "phase1": {"max_steps": 12, "batch_size": 32, "validate_every": 12, "schedule": "cosine"},
    "phase2": {"max_steps": 12, "batch_size": 32, "validate_every": 12},
    "evaluation": {"baselines": ["cwae", "wae_mmd", "swae"]},
}


def _trained(folder, data, *, eager):
    folder.mkdir()
    spec = LcwTrain.model_validate(SPEC)
    with (folder / "events.jsonl").open("w") as file:
        training = setup.make_training(spec, data, Run(folder, file, device="cuda"))
        for number, name in enumerate(spec.steps()):
            if name == "autoencoder":
                stage = setup.autoencoder_stage(training, data)
            elif name == "generator":
                stage = setup.generator_stage(training, data)
            else:
                stage = setup.baseline_stage(training, data, name)
            training.train(number, replace(stage, waits=eager))
        assert "no_cuda_graphs" not in (folder / "events.jsonl").read_text()
    return training.nets.state_dict()


@pytest.mark.gpu
@pytest.mark.usefixtures("_deterministic")
def test_graphs_train_as_eager_steps(tmp_path):
    """Both phases and all baselines; the same kernels in the same order, and rates that fall."""
    images, labels = synthetic.blobs(128, 4, 16, 1, 0)
    images, labels = torch.as_tensor(images).cuda(), torch.as_tensor(labels).cuda()
    data = setup.Data(images, labels, images[:32], images, labels, list("abcd"))
    eager = _trained(tmp_path / "eager", data, eager=True)
    graphs = _trained(tmp_path / "graphs", data, eager=False)
    for name, tensor in eager.items():
        assert torch.allclose(graphs[name].double(), tensor.double(), rtol=1e-4, atol=1e-6), name
