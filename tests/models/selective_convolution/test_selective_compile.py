"""Compilation of the unit, where neither loops nor Triton run: property 11."""

import subprocess
import sys

import pytest

COMPILED = """
import torch
from tests.models.selective_convolution.selective_units import make_unit

unit, graphs = make_unit(5, 3), []
compiled = torch.compile(
    unit, backend=lambda graph, _: graphs.append(graph) or graph.forward, fullgraph=True
)
x = torch.randn(2, 5, 6, 6, dtype=torch.float64)
for training in (True, False):
    for seed, moved in enumerate([(), (0, 3), (1, 2, 4)]):
        state = make_unit(5, 3, moved=moved, closed=(seed,), seed=seed).state_dict()
        twin = make_unit(5, 3).train(training)
        twin.load_state_dict(state)
        unit.train(training).load_state_dict(state)
        torch.testing.assert_close(compiled(x), twin(x))
print(len(graphs))
"""


@pytest.mark.slow
def test_compiles_whole_and_sees_every_allocation():
    """Property 11: one graph a mode, none more when source, gate and shift change.

    In a process of its own: the checks of shapes in this one cannot be compiled.
    """
    command = [sys.executable, "-c", COMPILED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "2", done.stderr
