"""CUDA graphs compute what eager steps compute."""

import pytest
import torch

from models.core.run import Run
from models.data import images, synthetic
from models.nets.build import build_net
from models.supervised.loop import fit
from models.supervised.spec import SupervisedSpec

pytestmark = [pytest.mark.gpu]


@pytest.mark.usefixtures("_deterministic")
def test_graphs_give_the_bits_of_eager_steps(tmp_path):
    train, test = (synthetic.blobs(256, 4, 32, 3, seed) for seed in (1, 2))
    data = images.from_tensors(list(train), list(test), list("abcd"), "cuda")
    nets = []
    for compile_as in ("off", "graphs"):
        spec = SupervisedSpec(
            model={"name": "resnet8"},
            data={"dataset": "none"},
            max_steps=20,
            batch_size=64,
            compile=compile_as,
            precision="fp32",
        )
        torch.manual_seed(0)
        net = build_net({"name": "resnet8"}, 4, 3).to("cuda")
        (tmp_path / compile_as).mkdir()
        with (tmp_path / compile_as / "events.jsonl").open("w") as file:
            fit(net, data, spec, Run(tmp_path / compile_as, file, device="cuda"))
        nets.append(net.state_dict())
    for name, tensor in nets[0].items():
        assert torch.equal(nets[1][name], tensor), name
