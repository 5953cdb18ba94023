"""The child by hand: a spec that is wrong is answered with its fields."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOOD = {"kind": "terrain.simulate", "terrain": {"synthetic": {}}}


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({**FLOOD, "outputs": 0, "duration_s": -1}, "terrain.simulate.duration_s: "),
        ({**FLOOD, "outputs": 0, "duration_s": -1}, "terrain.simulate.outputs: "),
        ({"kind": "terrain.flood"}, "'terrain.simulate'"),
        ({}, "kind"),
    ],
)
def test_a_wrong_spec_is_answered_with_its_fields(tmp_path, spec, field):
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    command = [sys.executable, "-m", "models", "run", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 64
    event = json.loads((tmp_path / "events.jsonl").read_text().splitlines()[-1])
    assert event["code"] == "spec_invalid"
    assert field in event["message"]
    assert "validation error for" not in event["message"]
