"""The import hook of the tests leaves Triton programs as they are written."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.runtime_types import ROOT, modules

# stands in for Triton, which no CPU build of torch brings: keeps what it is given to compile
STUB = """
import sys
from types import ModuleType

class Stub(ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Stub(f"{self.__name__}.{name}")

    def __call__(self, *args, **kwargs):
        return args[0] if args else self

given = []

def jit(program=None, **options):
    given.append(program)
    return program if program else jit

sys.modules[__name__] = stub = Stub(__name__)
stub.__path__ = []
stub.jit, stub.given = jit, given
sys.modules["triton.language"] = Stub("triton.language")
"""

IMPORTS = """
import importlib, sys
import tests.runtime_types
import triton
for name in sys.argv[1:]:
    importlib.import_module(name)
    programs = [program for program in triton.given if program and program.__module__ == name]
    assert programs, name
    wrapped = [each.__qualname__ for each in programs if hasattr(each, "__wrapped__")]
    assert not wrapped, (name, wrapped)
"""


@pytest.mark.skipif(find_spec("triton") is not None, reason="the GPU tests run the programs")
def test_programs_are_not_wrapped(tmp_path):
    (tmp_path / "triton.py").write_text(STUB)
    names = modules(programs=True)
    assert names
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path.append({str(tmp_path)!r})\n{IMPORTS}",
            *names,
        ],
        cwd=ROOT,
        env=os.environ | {"TEST_TYPES": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_everything_else_is_checked():
    code = (
        "import tests.runtime_types, models.core.checkpoint as c\n"
        "assert hasattr(c.random_state, '__wrapped__')"
    )
    environment = os.environ | {"TEST_TYPES": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
