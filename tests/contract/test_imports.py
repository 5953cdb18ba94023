"""What processes load: the API and the worker never load torch."""

import subprocess
import sys


def test_torch_is_not_loaded():
    code = (
        "import app.main, workers.tasks, sys\n"
        "heavy = {'torch', 'numpy', 'scipy', 'PIL'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
