"""That a job says where its floods run, and why a GPU is left idle."""

import json

import numpy as np
import pytest
from pydantic import TypeAdapter

from models.catalog import JobSpec
from models.stored import load_entry
from models.terrain.dem.rasters import Maps
from models.terrain.solver.boundary import Extent
from models.terrain.solver.engines import Scenario
from models.terrain.solver.placement import placement
from models.terrain.spec.solver import Solver

MADE = {"rows": 16, "columns": 16, "cell_size_m": 10.0}


def scenario(**fields):
    return Scenario([], Extent(160.0, 160.0), Solver(), 0.05, 60.0, "cuda:0")._replace(**fields)


def warnings(run):
    events = [json.loads(x) for x in (run.dir / "events.jsonl").read_text().splitlines()]
    return [e["message"] for e in events if e.get("code") == "on_cpu"]


@pytest.mark.parametrize(
    ("fields", "subgrid", "word"),
    [
        ({"stack": object()}, False, "stack of rain"),
        ({"soil": object()}, False, "infiltration"),
        ({"solver": Solver(froude=1.0)}, False, "solver.froude"),
        ({"maps": Maps(rain=np.ones((16, 16), np.float32))}, False, "rain that differs"),
        ({}, True, "a subgrid"),
    ],
)
def test_a_flood_that_leaves_the_gpu_idle_says_why(fields, subgrid, word, new_run):
    run = new_run(device="cuda:0")
    part = placement(scenario(**fields), run, subgrid=subgrid, heights=not subgrid)
    assert part["runs_on"] == "cpu"
    assert word in part["not_on_gpu"][0]
    assert word in warnings(run)[0]


def test_a_flood_on_the_gpu_and_one_without_a_gpu_warn_of_nothing(new_run):
    run, without = new_run(device="cuda:0"), new_run()
    assert placement(scenario(), run, subgrid=False, heights=True) == {"runs_on": "gpu"}
    assert placement(scenario(soil=object()), without, subgrid=True, heights=True) == {
        "runs_on": "cpu"
    }
    assert warnings(run) == warnings(without) == []


def test_a_comparison_tells_its_floods_on_a_subgrid_from_the_others(new_run):
    run = new_run(device="cuda:0")
    part = placement(scenario(), run, subgrid=True, heights=True)
    assert part == {"runs_on": "gpu, on a subgrid cpu"}
    assert "on a subgrid run on the CPU" in warnings(run)[0]


@pytest.mark.parametrize("kind", ["terrain.simulate", "terrain.compare"])
def test_event_and_report_of_a_job_have_it(kind, new_run):
    fields = {"kind": kind, "terrain": {"synthetic": MADE}, "duration_s": 60.0}
    fields |= {"infiltration": {"type": "constant", "mm_per_h": 20.0}}
    fields |= {"factor": 4, "methods": ["mean"]} if kind == "terrain.compare" else {}
    spec = TypeAdapter(JobSpec).validate_python(fields)
    run = new_run(device="cuda:0")
    load_entry(spec)(spec, run)
    report = json.loads((run.dir / "report.json").read_text())
    assert report["runs_on"] == "cpu"
    assert "infiltration" in report["not_on_gpu"]
    said = warnings(run)
    assert len(said) == 1
    assert "infiltration" in said[0]
