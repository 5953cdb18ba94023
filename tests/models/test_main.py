"""The child by hand: a spec that is wrong is answered with its fields, any name can be drawn."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.smallest import smallest

ROOT = Path(__file__).parents[2]
FLOOD = {"kind": "terrain.simulate", "terrain": {"synthetic": {}}}


def carried_out(folder: Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "models", "run", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, check=False)


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
    assert carried_out(tmp_path).returncode == 64
    event = json.loads((tmp_path / "events.jsonl").read_text().splitlines()[-1])
    assert event["code"] == "spec_invalid"
    assert field in event["message"]
    assert "validation error for" not in event["message"]


@pytest.mark.slow
def test_classes_whose_names_are_no_formulas_end_in_pictures(tmp_path):
    """``$_$`` is what the drawing library would take for a formula, and for a wrong one."""
    numbers = np.random.default_rng(0)
    (tmp_path / "inputs").mkdir()
    with zipfile.ZipFile(tmp_path / "inputs" / ("0" * 64), "w") as archive:
        for part, count in (("train", 32), ("test", 4)):
            for label in ("$_$", "b"):
                for index in range(count):
                    stream = io.BytesIO()
                    pixels = numbers.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(stream, "PNG")
                    archive.writestr(f"{part}/{label}/{index}.png", stream.getvalue())
    spec = smallest("dynamic_downsampling.train") | {
        "data": {"dataset": "mine", "sha256": "0" * 64},
        "images": {"image_size": 16},
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    done = carried_out(tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "confusion.png").exists()
