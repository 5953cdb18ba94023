"""What processes load: the API and the worker never load torch."""

import subprocess
import sys
from typing import get_args

from models.catalog import kinds


def run(code: str) -> None:
    """Carry out code in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_torch_is_not_loaded():
    run(
        "import app.main, workers.tasks, sys\n"
        "heavy = {'torch', 'numpy', 'scipy', 'PIL'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )


def test_a_child_loads_the_spec_of_its_own_kind_alone():
    run(
        "import models.__main__, sys\n"
        "from models.stored import load_stored\n"
        "load_stored({'kind': 'lcw.train', 'data': {'dataset': 'digits'}})\n"
        "specs = {m for m in sys.modules if m.endswith('.spec')}\n"
        "methods = {m.split('.')[1] for m in specs} - {'core', 'data', 'nets', 'supervised'}\n"
        "assert methods == {'lcw'}, methods\n"
        "assert 'models.catalog' not in sys.modules\n"
    )


def test_every_kind_is_found_by_its_name():
    for kind, spec_class in kinds().items():
        assert get_args(spec_class.model_fields["kind"].annotation) == (kind,)
