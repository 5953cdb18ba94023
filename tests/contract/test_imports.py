"""What processes load: the API and the worker never load torch."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("modules", ["app.main", "workers.tasks", "app.main, workers.tasks"])
def test_torch_is_not_loaded(modules):
    code = (
        f"import {modules}, sys\n"
        "heavy = {'torch', 'numpy', 'scipy', 'PIL'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
