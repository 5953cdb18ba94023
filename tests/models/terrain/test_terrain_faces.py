"""Tuning the faces of a subgrid to a scene, from spec to file; the search that tuning shares."""

import json

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from models.catalog import JobSpec
from models.core.errors import SpecError
from models.core.run import Run
from models.stored import load_entry
from models.terrain.dem import subgrid_file
from models.terrain.learning.coarse_floods import depths_by_faces
from models.terrain.learning.search import Matches, search
from models.terrain.solver.scheme import Physics
from models.terrain.solver.subgrid import FaceChange
from tests.models.terrain.test_terrain_subgrid_adjoint import changes, rough_flood

MADE = {"rows": 24, "columns": 40, "cell_size_m": 8.0}
INFLOW = {"type": "valley", "discharge_m3_s": 60.0}
TUNE = {
    "water": [[INFLOW], [{"type": "source", "x_m": 150, "y_m": 90, "discharge_m3_s": 9.0}]],
    "validation": [[{**INFLOW, "discharge_m3_s": 30.0}]], "duration_s": 200.0, "steps": 5,
}  # fmt: skip
SHA = "0" * 64
REF = {"job": "job_" + "0" * 32, "artifact": "subgrid.nc", "sha256": SHA}


def spec_of(**fields):
    return TypeAdapter(JobSpec).validate_python(fields)


def events(run):
    return [json.loads(line) for line in (run.dir / "events.jsonl").read_text().splitlines()]


def result(run):
    return next(line["values"] for line in events(run) if line["type"] == "result")


def given(run, path):
    """The run with a file that ``REF`` names."""
    (run.dir / "inputs").mkdir(exist_ok=True)
    (run.dir / "inputs" / SHA).write_bytes(path.read_bytes())
    return run


def downsample(run, method, tune):
    spec = spec_of(kind="terrain.downsample", terrain={"synthetic": MADE}, factor=8,
                   method=method, tune=tune)  # fmt: skip
    load_entry(spec)(spec, run)
    return result(run)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A run that tuned a subgrid."""
    folder = tmp_path_factory.mktemp("tuned")
    with (folder / "events.jsonl").open("w") as lines:
        run = Run(folder, lines)
        downsample(run, "subgrid", TUNE)
        yield run


@pytest.mark.slow
def test_a_tuned_subgrid_is_better_and_is_read_like_any_other(new_run, tuned):
    """Under the floods that judge; only sills and friction differ; simulate floods it."""
    plain, flood, figures = new_run(), new_run(), result(tuned)
    downsample(plain, "subgrid", None)
    assert figures["error_ratio"] < 0.9 * figures["start_ratio"]
    before, after = (subgrid_file.read(run.dir / "subgrid.nc", "x") for run in (plain, tuned))
    for name in ("full", "storage"):
        a, b = (getattr(made.subgrid.tables, name) for made in (before, after))
        assert torch.equal(a, b)
    for a, b in zip(before.subgrid.tables[2:], after.subgrid.tables[2:], strict=True):
        assert torch.equal(a.depth, b.depth)
        moved = (b.sill - a.sill).abs()
        torch.testing.assert_close(b.mean - a.mean, b.sill - a.sill, rtol=0, atol=1e-5)
        assert 0.005 < float(moved.max()) < 5 * 0.021
    assert np.array_equal(before.z, after.z)
    given(flood, tuned.dir / "subgrid.nc")
    spec = spec_of(kind="terrain.simulate", terrain=REF, outputs=1, animation=False,
                   duration_s=60.0, water=[INFLOW])  # fmt: skip
    load_entry(spec)(spec, flood)
    assert result(flood)["volume_m3"] > 0
    assert result(flood)["balance_error"] < 1e-6


@pytest.mark.slow
def test_a_comparison_floods_given_subgrids(new_run, tuned):
    """A tuned one beside the untrained one; that of another terrain or factor is refused."""
    run = new_run()
    fields = {
        "kind": "terrain.compare", "terrain": {"synthetic": MADE}, "factor": 8, "water": [INFLOW],
        "methods": ["mean", "subgrid"], "subgrids": [REF], "duration_s": 200.0,
    }  # fmt: skip
    spec = spec_of(**fields)
    load_entry(spec)(spec, given(run, tuned.dir / "subgrid.nc"))
    errors = result(run)["mae_m"]
    assert list(errors) == ["mean", "subgrid", "given subgrid"]
    assert errors["given subgrid"] < 0.95 * errors["subgrid"]
    assert (run.dir / "depth" / "given-subgrid.tif").exists()
    other = {"terrain": {"synthetic": {**MADE, "variant": 1}}}
    for changed, match in ((other, "subgrids.0: its lowest heights"), ({"factor": 4}, "factor 8")):
        spec = spec_of(**{**fields, **changed, "duration_s": 10.0})
        with pytest.raises(SpecError, match=match):
            load_entry(spec)(spec, given(new_run(), tuned.dir / "subgrid.nc"))


def test_a_tuning_that_helps_no_flood_leaves_the_terrain_and_says_so(new_run):
    """Rain that hardly wets the ground, judged by a flood which it makes no better."""
    run, plain = new_run(), new_run()
    drizzle = [[{"type": "rain", "mm_per_h": 0.001}]]
    calm = [[{"type": "rain", "mm_per_h": 0.0005}]]
    tune = {"water": drizzle, "validation": calm, "duration_s": 20.0, "steps": 2}
    figures = downsample(run, "subgrid", tune)
    downsample(plain, "subgrid", None)
    assert figures["error_ratio"] == figures["start_ratio"]
    assert any(line.get("code") == "not_tuned" for line in events(run))
    a, b = (subgrid_file.read(r.dir / "subgrid.nc", "x").subgrid.tables for r in (run, plain))
    assert all(torch.equal(*pair) for pair in zip((*a.x, *a.y), (*b.x, *b.y), strict=True))


def quadratic(target):
    """Floods whose error is the square of the leaf's distance from ``target``."""
    return Matches([], torch.tensor(target), torch.ones(1))


@pytest.mark.parametrize(("judge", "ends"), [(None, 1.0), (0.5, 0.5), (0.0, 0.0), (-3.0, 0.0)])
def test_a_search_ends_where_the_held_out_floods_are_best(new_run, judge, ends):
    """Never worse than at its beginning there, whatever the floods it follows want."""
    leaf = torch.zeros(1, requires_grad=True)
    held_out = None if judge is None else quadratic(judge)
    found = search([leaf], [0.1], lambda some: (leaf - some.target).square().sum(),
                   quadratic(1.0), held_out, 40, new_run())  # fmt: skip
    assert float(found.values[0]) == pytest.approx(ends, abs=0.06)
    assert found.error <= found.first
    assert (found.step == 0) == (ends == 0)


def test_tiny_floods_have_the_gradient_of_the_compiled_engine():
    """Autograd of the reference step in float32: the same depths and derivatives to rounding."""
    ny, nx = 12, 14
    (boundary,) = rough_flood(ny, nx)
    ends = []
    for by_reference in (True, False):
        leaves = changes(ny, nx, 0.2)
        faces = FaceChange(*leaves[:3]), FaceChange(*leaves[3:])
        depths = depths_by_faces(
            *faces, [boundary], Physics(), [30.0], by_reference=by_reference
        )  # fmt: skip
        ends.append((depths, *torch.autograd.grad(depths.square().sum(), leaves)))
    for a, b in zip(*ends, strict=True):
        assert (a - b).norm() <= 5e-3 * b.norm()  # friction is packed in the compiled one


def test_validation_needs_what_water_needs():
    """Changing levels have no derivative; a net makes heights."""
    tide = [{"type": "level", "edge": "left", "series": [{"time_s": 0, "value": 1}] * 1}]
    base = {"kind": "terrain.downsample", "terrain": {"synthetic": MADE}, "method": "subgrid"}
    with pytest.raises(ValidationError, match=r"tune\.validation: a level that changes"):
        spec_of(**base, tune={**TUNE, "validation": [tide]})
    net = {"job": "job_" + "0" * 32, "artifact": "weights.safetensors"}
    with pytest.raises(ValidationError, match="subgrid takes no net"):
        spec_of(**base, net=net)
