"""Our optimizers are torch's, bit for bit, without the compiler behind them."""

import subprocess
import sys

import pytest
import torch

from models.core import optimizers

OURS = """
import sys
import torch
from models.core import optimizers
w = torch.ones(3, requires_grad=True)
for kind in (optimizers.Sgd, optimizers.Adam, optimizers.AdamW):
    optimizer = kind([w], lr=0.1)
    optimizer.zero_grad()
    w.square().sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
lamb = optimizers.Lamb([w], torch.tensor(0.1))
lamb.state[w] = {name: torch.zeros(3) for name in ("exp_avg", "exp_avg_sq")}
lamb.state[w]["step"] = torch.zeros(())
lamb.step()
assert "torch._dynamo" not in sys.modules
"""


@pytest.mark.parametrize(
    ("kind", "other", "settings"),
    [
        (optimizers.Sgd, torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "fused": True}),
        (optimizers.Sgd, torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
        (optimizers.Adam, torch.optim.Adam, {"betas": (0.8, 0.99)}),
        (optimizers.AdamW, torch.optim.AdamW, {"weight_decay": 0.1, "fused": True}),
    ],
)
def test_same_bits(kind, other, settings):
    """Ten steps, the second half from the saved state of the first."""

    def trained(kind):
        draws = torch.Generator().manual_seed(0)
        w = torch.randn(5, 3, generator=draws).requires_grad_()
        x = torch.randn(7, 5, generator=draws)
        saved = None
        for _ in range(2):
            optimizer = kind([w], lr=torch.tensor(0.05), **settings)
            if saved is not None:
                optimizer.load_state_dict(saved)
            for _ in range(5):
                optimizer.zero_grad(set_to_none=False)
                (x @ w).sin().square().mean().backward()
                optimizer.step()
            saved = optimizer.state_dict()
        return w.detach()

    assert torch.equal(trained(kind), trained(other))


def test_no_compiler_is_loaded():
    """It would take each run as long again as torch itself."""
    done = subprocess.run([sys.executable, "-c", OURS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
