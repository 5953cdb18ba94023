"""The tutorials do what they say: their files and specs are run as a child runs them."""

import csv
import json
import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from models.catalog import JobSpec, load_entry
from models.core.run import Run
from models.data import files

pytestmark = [pytest.mark.docs, pytest.mark.timeout(300)]

FLOOD = (Path(__file__).parents[2] / "docs" / "tutorials" / "flood.md").read_text()
BLOCK = re.compile(r"```\w+ file=(\S+)\n(.*?)```", re.DOTALL)


def test_the_flood_of_the_tutorial(tmp_path):
    """Files are accepted, the series bring their volume, the lake rises at the shore."""
    given = dict(BLOCK.findall(FLOOD))
    (tmp_path / "inputs").mkdir()
    spec = json.loads(given["flood.json"])
    for k, item in enumerate(spec["water"]):
        name = item["series"]["dataset"]
        item["series"]["sha256"] = f"{k:064x}"
        path = tmp_path / "inputs" / f"{k:064x}"
        path.write_text(given[f"{name}.csv"])
        assert files.check(path, "series", {})["moments"] == 3
    job = TypeAdapter(JobSpec).validate_python(spec)
    with (tmp_path / "events.jsonl").open("w") as events:
        load_entry(job)(job, Run(tmp_path, events))
    lines = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    result = next(line["values"] for line in lines if line["type"] == "result")
    assert result["balance_error"] < 1e-6
    assert result["entered_m3"] > 2.88e6 - 1
    assert result["wet_ever_share"] > 0.005
    rows = list(csv.DictReader((tmp_path / "gauges.csv").read_text().splitlines()))
    assert len(rows) == 201
    assert max(float(row["shore stage_m"]) for row in rows) == pytest.approx(254, abs=0.1)
    assert max(float(row["section discharge_m3_s"]) for row in rows) > 50
    for name in ("maxima.png", "gauges.png", "flood.webp", "state.safetensors"):
        assert (tmp_path / name).is_file()
