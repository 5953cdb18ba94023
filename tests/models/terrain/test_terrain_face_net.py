"""Faces of a subgrid from fine heights: features, the net, the methods that use it."""

import json

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from models.catalog import JobSpec
from models.core import checkpoint
from models.core.errors import SpecError
from models.core.run import Run
from models.stored import load_entry
from models.terrain.dem import rasters, subgrid_file
from models.terrain.learning import face_features, face_net
from models.terrain.learning.face_features import (
    about_a_plane,
    conveyance,
    features_of,
    spill_levels,
)
from models.terrain.learning.face_net import FaceNet
from models.terrain.solver.subgrid import subgrid_of
from models.terrain.spec.terrains import SyntheticTerrain

MADE = {"rows": 32, "columns": 48, "cell_size_m": 8.0}
REF = {"job": "job_" + "0" * 32, "artifact": "w.safetensors", "sha256": "0" * 64}
TRAIN = {
    "kind": "terrain.train", "learn": "faces", "factor": 8, "duration_s": 120.0, "loss": "relative",
    "scenes": {"synthetic": MADE, "train": 2, "test": 1},
    "water": [{"type": "rain", "mm_per_h": 60}],
    "epochs": 4, "batch_size": 2, "lr": 0.05,
}  # fmt: skip


def never():
    """No stop."""


def heights(ny, nx):
    g = torch.Generator().manual_seed(3)
    return torch.randn(ny, nx, generator=g)


def both(z, factor=4):
    return features_of(z, subgrid_of(z, factor), 40.0, never)


def trained(factor):
    """A net whose head was learned."""
    net = FaceNet(factor)
    torch.nn.init.normal_(net.head.weight, std=0.3)
    return net.eval()


def test_water_passes_at_the_lowest_way_between_the_lowest_heights():
    pair = torch.full((4, 8), 5.0)
    pair[1, 1], pair[2, 6] = 0.0, 1.0
    assert spill_levels(pair) == 5.0
    pair[1, 1:6] = 2.0
    pair[1, 1] = 0.0
    assert spill_levels(pair) == 5.0  # diagonal neighbours are none
    pair[1:3, 5] = 2.0
    assert spill_levels(pair) == 2.0
    assert spill_levels(pair.flip(-1)) == 2.0


def test_conveyance_of_level_ground_of_a_channel_and_of_a_wall():
    level = torch.tensor(2.0, dtype=torch.float64)
    ground = torch.zeros(8, 8, dtype=torch.float64)
    assert conveyance(level, ground) == pytest.approx(2 ** (5 / 3))
    ground[2:] = 10.0
    assert conveyance(level, ground) == pytest.approx(2 ** (5 / 3) / 4, rel=1e-3)
    ground[:, 4] = 10.0
    assert conveyance(level, ground) < 1e-4
    two = torch.zeros(2, 2, dtype=torch.float64)
    assert conveyance(level, two) == pytest.approx(2 ** (5 / 3))


def test_features_follow_the_terrain_when_it_is_turned_or_raised():
    z = heights(16, 24)
    x, y = both(z)
    turned_x, turned_y = both(z.mT.contiguous())
    torch.testing.assert_close(turned_x.values, y.values)
    torch.testing.assert_close(turned_y.scale, x.scale)
    mirrored, _ = both(z.flip(1))
    torch.testing.assert_close(mirrored.values.flip(1), x.values, atol=1e-4, rtol=1e-4)
    raised, _ = both(z + 64)
    torch.testing.assert_close(raised.values, x.values, atol=1e-3, rtol=1e-3)
    assert x.values.shape == (4, 5, face_features.COUNT) == (4, 5, len(face_features.NAMES))


def test_bands_do_not_change_the_features(monkeypatch):
    z, calls = heights(32, 16), []
    whole, _ = both(z)
    monkeypatch.setattr(face_features, "MOST_FACES", 5)
    parts, _ = features_of(z, subgrid_of(z, 4), 40.0, lambda: calls.append(1))
    assert len(calls) > 8
    torch.testing.assert_close(parts.values, whole.values)


def test_a_level_bed_has_finite_features_and_an_untrained_net_changes_nothing():
    z = torch.zeros(16, 16)
    assert all(some.values.isfinite().all() for some in both(z))
    z = heights(16, 24)
    terrain = subgrid_of(z, 4)
    after = face_net.improved(FaceNet(4), z, terrain, 40.0, never)
    for old, new in zip(terrain.tables.x, after.tables.x, strict=True):
        torch.testing.assert_close(old, new, atol=0, rtol=0)


def test_a_net_moves_sills_and_friction_within_bounds_and_keeps_storage():
    z = heights(16, 24)
    terrain = subgrid_of(z, 4)
    after = face_net.improved(trained(4), z, terrain, 40.0, never)
    assert torch.equal(after.tables.storage, terrain.tables.storage)
    assert not torch.equal(after.tables.x.sill, terrain.tables.x.sill)
    lowest = torch.maximum(terrain.lowest[:, :, 1:], terrain.lowest[:, :, :-1])
    assert (after.tables.x.sill >= lowest - 1e-6).all()
    change = (after.tables.y.friction / terrain.tables.y.friction).log().abs()
    assert 0.01 < change.max() <= face_net.MOST_LOG + 1e-4


@pytest.mark.parametrize("factor", [4, 8, 16])
def test_the_package_has_nets_of_finite_weights(factor):
    net = face_net.shipped(factor)
    assert net.factor == factor
    assert all(p.isfinite().all() for p in net.parameters())
    assert net.head.weight.abs().max() > 0


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    checkpoint.write(path, {"a": torch.zeros(1)}, {"net": {"name": "terrain_downsampler"}})
    with pytest.raises(SpecError, match="no net of faces"):
        face_net.load(path)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("terrain.downsample", {"method": "learned", "factor": 2}),
        ("terrain.compare", {"methods": ["learned"], "factor": 32}),
    ],
)
def test_factors_without_a_net_are_refused(kind, fields):
    with pytest.raises(ValidationError, match="factors 4, 8 and 16"):
        TypeAdapter(JobSpec).validate_python(
            {"kind": kind, "terrain": {"synthetic": MADE}} | fields
        )


def test_an_untrained_subgrid_takes_no_net():
    fields = {"kind": "terrain.downsample", "terrain": {"synthetic": MADE}, "factor": 8}
    with pytest.raises(ValidationError, match="takes no net"):
        TypeAdapter(JobSpec).validate_python(fields | {"method": "subgrid", "net": REF})


@pytest.mark.parametrize("field", [{"width": 32}, {"inputs": "flow"}, {"terrain_weight": 0.1}])
def test_training_faces_takes_no_fields_of_heights(field):
    with pytest.raises(ValidationError, match=f"{next(iter(field))}: is of nets that learn"):
        TypeAdapter(JobSpec).validate_python(TRAIN | field)


def made(run, **fields):
    spec = TypeAdapter(JobSpec).validate_python({"terrain": {"synthetic": MADE}} | fields)
    load_entry(spec)(spec, run)
    lines = (run.dir / "events.jsonl").read_text().splitlines()
    return next(e["values"] for e in map(json.loads, lines) if e["type"] == "result")


def given(run, path):
    """The run with a file that ``REF`` names."""
    (run.dir / "inputs").mkdir(exist_ok=True)
    (run.dir / "inputs" / REF["sha256"]).write_bytes(path.read_bytes())
    return run


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A run that trained a net of faces, and its result."""
    folder = tmp_path_factory.mktemp("faces")
    spec = TypeAdapter(JobSpec).validate_python(TRAIN)
    with (folder / "events.jsonl").open("w") as lines:
        run = Run(folder, lines)
        load_entry(spec)(spec, run)
    lines = (folder / "events.jsonl").read_text().splitlines()
    return run, next(e["values"] for e in map(json.loads, lines) if e["type"] == "result")


def test_a_training_of_faces_improves_on_the_untrained_subgrid(training):
    _, result = training
    assert result["best_test_mae_m"] < 0.9 * result["subgrid_mae_m"]
    assert result["parameters"] == sum(p.numel() for p in FaceNet(8).parameters())


def test_downsample_takes_a_trained_net_of_faces_for_its_factor_alone(training, new_run):
    weights = training[0].dir / "weights.safetensors"
    run = given(new_run(), weights)
    made(run, kind="terrain.downsample", method="learned", factor=8, net=REF)
    learned = subgrid_file.read(run.dir / "subgrid.nc", "subgrid.nc").subgrid
    z = rasters.load(SyntheticTerrain.model_validate({"synthetic": MADE}), run, 0).z
    untrained = subgrid_of(torch.from_numpy(z), 8)
    assert not torch.equal(learned.tables.x.friction, untrained.tables.x.friction)
    with pytest.raises(SpecError, match="trained for 8"):
        made(run, kind="terrain.downsample", method="learned", factor=4, net=REF)


def test_a_net_of_faces_makes_no_heights(training, new_run):
    run = given(new_run(), training[0].dir / "weights.safetensors")
    with pytest.raises(SpecError, match="method learned"):
        made(run, kind="terrain.downsample", factor=8, net=REF)


def test_downsample_writes_a_learned_subgrid_and_compare_floods_it(new_run):
    first, second, third = (new_run() for _ in range(3))
    made(first, kind="terrain.downsample", method="learned", factor=8)
    made(second, kind="terrain.downsample", method="subgrid", factor=8)
    learned, plain = (
        subgrid_file.read(run.dir / "subgrid.nc", "subgrid.nc").subgrid for run in (first, second)
    )
    assert not torch.equal(learned.tables.x.friction, plain.tables.x.friction)
    assert torch.equal(learned.tables.storage, plain.tables.storage)
    errors = made(
        third, kind="terrain.compare", methods=["subgrid", "learned"], factor=8,
        water=[{"type": "rain", "mm_per_h": 60.0}], duration_s=120.0,
    )["mae_m"]  # fmt: skip
    assert set(errors) == {"subgrid", "learned"}
    assert errors["learned"] < errors["subgrid"]


def test_tuning_goes_on_from_learned_faces(new_run):
    """A scene's tuning begins with the faces of the net, and keeps them if no step is better."""
    floods = {"water": [[{"type": "rain", "mm_per_h": 60.0}]], "duration_s": 60.0, "steps": 2}
    first, second = new_run(), new_run()
    fields = {"kind": "terrain.downsample", "factor": 8, "tune": floods}
    learned = made(first, method="learned", **fields)
    plain = made(second, method="subgrid", **fields)
    assert learned["start_ratio"] < plain["start_ratio"]
    assert learned["error_ratio"] <= learned["start_ratio"]


@pytest.mark.parametrize("factor", [4, 8, 16])
@pytest.mark.parametrize("slope", [(0.0, 0.0), (0.01, 0.0), (0.2, -0.1)])
def test_a_plane_keeps_its_untrained_faces(factor, slope):
    """The untrained subgrid is exact there: water at rest, a film, a uniform flow."""
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    z = 300 + slope[0] * rows + slope[1] * columns
    net, terrain = face_net.shipped(factor), subgrid_of(z, factor)
    made = face_net.improved(net, z, terrain, 1.0 * factor, never).tables
    for before, after in ((terrain.tables.x, made.x), (terrain.tables.y, made.y)):
        for a, b in zip(before, after, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_relief_is_what_no_plane_explains():
    rng = np.random.default_rng(0)
    z = 0.3 * rng.normal(size=(2, 8, 16))
    rows, columns = np.mgrid[:8, :16]
    basis = np.stack([np.ones(128), rows.ravel(), columns.ravel()], 1)
    for heights, actual in zip(z, about_a_plane(torch.from_numpy(z)), strict=True):
        rest = heights.ravel() - basis @ np.linalg.lstsq(basis, heights.ravel(), rcond=None)[0]
        assert float(actual) == pytest.approx(np.sqrt((rest**2).mean()))


@pytest.mark.parametrize("shape", [(8, 8), (8, 24), (24, 8)])
def test_a_terrain_of_one_coarse_cell_across_has_faces_one_way_only(shape):
    z = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    terrain = subgrid_of(z, 8)
    made = face_net.improved(face_net.shipped(8), z, terrain, 8.0, never).tables
    assert made.x.sill.shape == terrain.tables.x.sill.shape
    assert made.y.sill.shape == terrain.tables.y.sill.shape
    assert all(torch.isfinite(side.sill).all() for side in (made.x, made.y))
