"""Machine code that processes share."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from models.core.compiled import compile_cached
from tests.models.core.test_core_compiled import added
compiled = compile_cached(added)
print("ready", flush=True)
sys.stdin.readline()
kind = float if sys.argv[1] == "float" else int
assert compiled(kind(2)) == 4
print(compiled.stats.cache_path, sum(compiled.stats.cache_hits.values()))
"""


def added(x):
    return x + x


def compile_together(folder, kinds: list[str]) -> int:
    """How many of the processes that begin at once find the code of another."""
    command = [sys.executable, "-c", PROGRAM]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {"NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": "."}
    processes = [subprocess.Popen([*command, kind], env=environment, **pipes) for kind in kinds]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0].split() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    return sum(int(hits) for _, hits in answers)


def test_processes_that_begin_at_once_compile_once(tmp_path):
    assert compile_together(tmp_path, ["int", "int"]) == 1


@pytest.mark.slow
def test_each_type_of_arguments_has_its_own_code(tmp_path):
    """Also where two processes compile for different types at once."""
    assert compile_together(tmp_path, ["int", "float"]) == 0
    assert len([*tmp_path.rglob("*.nbc")]) == 2
    assert compile_together(tmp_path, ["int", "float"]) == 2
