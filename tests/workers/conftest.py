"""Fixtures: a run folder with the smallest spec, and settings for a stub child."""

import json
import sys
from pathlib import Path

import pytest

from models.catalog import kinds
from tests.smallest import smallest

STUB = Path(__file__).parent / "stub.py"


@pytest.fixture
def stub(settings, monkeypatch):
    """Call with a behaviour (and settings) to make it the child of this process's runner."""

    def choose(behaviour: str, steps: int = 20, step_s: float = 0.02, **others: object) -> None:
        from tests.conftest import fresh_caches

        monkeypatch.setenv("SEXTANT_WORKER_COMMAND", f"{sys.executable} {STUB} {behaviour}")
        monkeypatch.setenv("LC_STUB_STEPS", str(steps))
        monkeypatch.setenv("LC_STUB_STEP_S", str(step_s))
        for name, value in others.items():
            monkeypatch.setenv(f"SEXTANT_{name.upper()}", str(value))
        fresh_caches()

    return choose


@pytest.fixture
def run_folder(tmp_path) -> Path:
    """A folder as the runner prepares it."""
    folder = tmp_path / "run"
    (folder / "inputs").mkdir(parents=True)
    (folder / "resume").mkdir()
    (folder / "spec.json").write_text(json.dumps(smallest(next(iter(kinds())))))
    return folder
