"""Two processes with half of the batch each are one process with all of it."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from models.lcw.distance import two_sample

SCRIPT = """
import json, sys
import torch
import torch.distributed as dist
from models.core import ranks
from models.lcw.distance import two_sample
from models.lcw.gather import gather

torch.set_num_threads(1)
ranks.start("cpu")
g = torch.Generator().manual_seed(0)
x, y, w = (torch.randn(*shape, generator=g) for shape in ((20, 6), (20, 5), (6, 5)))
w.requires_grad_()
rows = slice(10 * dist.get_rank(), 10 * dist.get_rank() + 10)
loss = two_sample(gather(x[rows] @ w), gather(y[rows]), 0.2)
loss.backward()
dist.all_reduce(w.grad)
w.grad /= 2
if dist.get_rank() == 0:
    print(json.dumps([loss.item(), w.grad.tolist()]))
ranks.leave()
"""


@pytest.mark.slow
def test_two_processes_are_one():
    """Property 9: the value to 1e-6, gradients of shared parameters to 1e-5."""
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": "2",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            env=environment | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=60)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    value, gradient = json.loads(outputs[0])
    g = torch.Generator().manual_seed(0)
    x, y, w = (torch.randn(*shape, generator=g) for shape in ((20, 6), (20, 5), (6, 5)))
    loss = two_sample(x @ w.requires_grad_(), y, 0.2)
    loss.backward()
    assert value == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(torch.tensor(gradient), w.grad, rtol=1e-5, atol=1e-6)


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
