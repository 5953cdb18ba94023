"""On a GPU: cheap passes recorded in CUDA graphs are those of steps without."""

import pytest
import torch

from models.core.run import Run
from models.data import images, synthetic
from models.dynamic_downsampling import train as method
from models.dynamic_downsampling.setup import prepare
from models.supervised.hooks import SubRun

pytestmark = [pytest.mark.gpu]
PERIODIC = {"type": "periodic", "period": 3, "n_cheap": 2}


@pytest.fixture(scope="module")
def on_gpu():
    """Four classes of 16 x 16 grey patterns."""
    pairs = [synthetic.blobs(n, 4, 16, 1, seed) for n, seed in ((64, 1), (32, 2))]
    return images.from_tensors(*map(list, pairs), list("abcd"), "cuda")


@pytest.mark.usefixtures("_deterministic")
@pytest.mark.parametrize("fields", [{}, {"accumulate": 2, "ema": 0.9}], ids=["plain", "averaged"])
@pytest.mark.parametrize("bn_mode", ["skip", "shared", "split"])
@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_recorded_cheap_steps_are_those_without_graphs(
    on_gpu, make_spec, tmp_path, monkeypatch, bn_mode, name, fields
):
    warned = []
    monkeypatch.setattr(Run, "warn", lambda *warning: warned.append(warning[1]))

    def weights(compile_):
        spec = make_spec(
            compile=compile_,
            precision="fp32",
            deterministic=True,
            optimizer={"name": name, "lr": 0.01},
            downsample={"schedule": PERIODIC, "kernel_pool": "avg", "bn_mode": bn_mode},
            **fields,
        )
        folder = tmp_path / compile_
        folder.mkdir()
        with (folder / "events.jsonl").open("w") as events:
            run = Run(folder, events, device="cuda", checkpoint_interval_s=1e9)
            setup = prepare(spec, on_gpu, run)
            method.fit_cheap(setup, run, SubRun())
        return setup.net.state_dict()

    recorded, plain = weights("graphs"), weights("off")
    assert "no_cuda_graphs" not in warned
    for key, value in plain.items():
        torch.testing.assert_close(recorded[key], value, rtol=1e-3, atol=1e-4)
