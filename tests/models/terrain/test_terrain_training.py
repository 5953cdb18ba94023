"""Trainings and tunings: several waters, reused floods, two processes, maps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from pydantic import TypeAdapter, ValidationError
from rasterio import Affine
from safetensors.torch import load_file, save_file

from models.catalog import JobSpec
from models.core import ranks
from models.core.errors import SpecError
from models.core.run import Run
from models.stored import load_entry
from models.terrain import train
from models.terrain.dem import hydrology
from models.terrain.dem.synthetic import generate
from models.terrain.learning import losses, samples
from models.terrain.spec.terrains import Synthetic

SHA = "1" * 64
TINY = {"rows": 32, "columns": 32, "cell_size_m": 10.0, "roads": 1, "levees": 1}
SPRING = {"type": "source", "x_m": 160, "y_m": 160, "discharge_m3_s": 20.0}
RAIN = {"type": "rain", "mm_per_h": 100.0}
TRAIN = {
    "kind": "terrain.train", "scenes": {"synthetic": TINY, "train": 3, "test": 1}, "factor": 8,
    "duration_s": 60.0, "epochs": 2, "batch_size": 4, "width": 8, "inputs": "flow",
    "loss": "relative", "water": [RAIN], "more_water": [[SPRING]],
}  # fmt: skip


def spec_of(**fields):
    return TypeAdapter(JobSpec).validate_python(fields)


def result(run):
    lines = map(json.loads, (run.dir / "events.jsonl").read_text().splitlines())
    return next(line["values"] for line in lines if line["type"] == "result")


@pytest.mark.slow
def test_training_under_several_waters_leaves_its_floods(new_run, monkeypatch):
    """A second training that reuses the floods of the first gives the same net."""
    first, second = new_run(), new_run()
    spec = spec_of(**TRAIN)
    train.train(spec, first)
    floods = first.dir / "floods.safetensors"
    assert len(load_file(floods)) == 8, "four terrains under two waters"
    (second.dir / "inputs").mkdir(exist_ok=True)
    (second.dir / "inputs" / SHA).write_bytes(floods.read_bytes())
    ref = {"job": "job_" + "0" * 32, "artifact": "floods.safetensors"}

    def not_again(*_):
        raise AssertionError("a fine flood was done again")

    monkeypatch.setattr(samples, "fine_depths", not_again)
    train.train(spec_of(**TRAIN, floods={**ref, "sha256": SHA}), second)
    ends = [load_file(run.dir / "weights.safetensors") for run in (first, second)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_other_water_is_another_flood(new_run):
    """The key of a flood holds heights, water and solver."""
    keys = set()
    for fields in ({}, {"water": [SPRING]}, {"solver": {"manning": 0.04}}, {"seed": 1}):
        spec = spec_of(**{**TRAIN, "more_water": [], **fields})
        keys.add(samples.key_of(spec, samples.load(spec, new_run())[0][0]))
    assert len(keys) == 4


def rank(folder):
    """What each of the two processes does."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    net = trained(Path(folder) / f"rank{ranks.rank()}")
    flat = torch.cat([x.flatten() for x in net.values()])
    every = [torch.empty_like(flat) for _ in range(2)]
    dist.all_gather(every, flat)
    assert torch.equal(*every), "weights differ between the processes"
    if ranks.is_first():
        save_file(net, Path(folder) / "net.safetensors")
    ranks.leave()


def trained(folder):
    """Weights after three steps, the last of them on a single sample."""
    (folder / "resume").mkdir(parents=True)
    with (folder / "events.jsonl").open("w") as events:
        run = Run(folder, events, checkpoint_interval_s=1e9)
        spec = spec_of(**{**TRAIN, "batch_size": 5, "loss": "l1"})
        plan, state = train.prepare(spec, run)
        for _ in range(3):
            train._step(plan, state, 4)
    assert len(state.depths) == 8
    return {name: x.contiguous() for name, x in plan.net.state_dict().items()}


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """Fine floods and batches are distributed; the net is that of one process, to rounding."""
    code = f"import {__name__} as t; t.rank({str(tmp_path)!r})"
    (tmp_path / "rank.py").write_text(code)
    root = str(Path(__file__).parents[3])
    path = os.pathsep.join([root, str(Path(__file__).parent)])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *command, str(tmp_path / "rank.py")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    together, alone = load_file(tmp_path / "net.safetensors"), trained(tmp_path / "alone")
    start = train.Downsampler(8, 8, inputs="flow").state_dict()
    assert any(not torch.allclose(alone[n], start[n], atol=1e-3) for n in ("head.weight",))
    for name, expected in alone.items():
        torch.testing.assert_close(together[name], expected, rtol=1e-3, atol=2e-4, msg=name)


def test_floods_without_a_derivative_do_not_count_in_the_median():
    """Two dry floods beside one: its derivative stays as it is."""
    grad = torch.zeros(3, 2, 2)
    grad[1] = 5.0
    assert torch.equal(losses.clip_per_sample(grad), grad)


def test_relative_loss_weighs_shallow_floods_like_deep_ones():
    truth = torch.zeros(1, 2, 3, 3)
    prediction = torch.stack([torch.full((3, 3), 0.01), torch.full((3, 3), 1.0)])[None]
    units = losses.units(torch.tensor([[0.01, 0.02], [1.0, 0.1]]))
    assert losses.relative(prediction, truth, torch.tensor([0.01, 1.0])) == pytest.approx(1.0)
    torch.testing.assert_close(units, torch.tensor([[0.01, 0.02], [1.0, 0.1]]))
    low = losses.units(torch.tensor([[0.0, 1.0, 2.0]]))
    torch.testing.assert_close(low, torch.tensor([[0.5, 1.0, 2.0]]))


def test_water_drains_through_depressions_to_the_border():
    """A pit in a plane: filled to its outlet, and all cells drain over the border."""
    z = torch.arange(12.0).expand(9, 12).clone()
    z[3:6, 4:7] = 1.0
    depth, upstream = hydrology.flow_accumulation(z)
    inside = torch.zeros_like(z, dtype=torch.bool)
    inside[3:6, 4:7] = True
    torch.testing.assert_close(depth, torch.where(inside, 2.0, 0.0))  # the way out is at 3 m
    border = torch.ones_like(inside)
    border[1:-1, 1:-1] = False
    assert upstream[border].sum() == z.numel()
    assert upstream[2:7, 3].sum() >= 9, "the pit flows out at its lowest side"


def raster(run, sha, values):
    path = run.dir / "inputs" / sha
    path.parent.mkdir(exist_ok=True)
    shape = dict(zip(("height", "width"), values.shape, strict=True))
    with rasterio.open(
        path, "w", driver="GTiff", count=1, dtype="float32", crs="EPSG:28356",
        transform=Affine(4.0, 0, 0, 0, -4.0, 400), **shape,
    ) as file:  # fmt: skip
        file.write(values.astype(np.float32), 1)
    return {"dataset": "map", "sha256": sha}


def run_spec(run, **fields):
    spec = spec_of(**fields)
    load_entry(spec)(spec, run)
    return result(run)


def test_rain_falls_by_its_map(new_run):
    """A map of zeros and twos over a flat bed: all rain on one half, as much in all."""
    depths, run = [], new_run()
    shares = np.zeros((20, 24))
    shares[:, 12:] = 2
    z = raster(run, SHA, np.zeros((20, 24)))
    result_values = run_spec(
        run, kind="terrain.simulate", terrain=z, duration_s=10.0, outputs=1, animation=False,
        water=[{"type": "rain", "mm_per_h": 360.0}], rain_map=raster(run, "2" * 64, shares),
    )  # fmt: skip
    assert result_values["entered_m3"] == pytest.approx(0.36 * 10 / 3600 * 20 * 24 * 16, rel=1e-4)
    with rasterio.open(run.dir / "max_depth.tif") as file:
        depths = file.read(1)
    assert depths[:, 14:].min() == pytest.approx(2e-3, rel=0.05)
    assert depths[:, :10].max() == 0


@pytest.mark.slow
def test_rough_ground_holds_water_back(new_run):
    """A map of one value is that value, a rougher one keeps more water; coarse floods pool it."""
    z = generate(Synthetic(rows=32, columns=32, cell_size_m=4.0, slope=0.02), 0).numpy()
    left = {}
    for name, given in (("plain", None), ("same", 0.05), ("rough", 0.5)):
        run = new_run()
        fields = {"terrain": raster(run, SHA, z)}
        if given is not None:
            fields["manning_map"] = raster(run, "2" * 64, np.full(z.shape, given))
        result_values = run_spec(
            run, kind="terrain.simulate", duration_s=300.0, outputs=1, animation=False,
            water=[RAIN, {"type": "outflow", "edge": "right"}], **fields,
        )  # fmt: skip
        left[name] = result_values["left_m3"]
    assert left["same"] == pytest.approx(left["plain"], rel=1e-5)
    assert left["rough"] < 0.5 * left["plain"]
    run = new_run()
    fields = {name: raster(run, sha, v) for name, sha, v in (
        ("terrain", SHA, z), ("manning_map", "2" * 64, np.full(z.shape, 0.5)),
    )}  # fmt: skip
    result_values = run_spec(
        run, kind="terrain.compare", duration_s=60.0, factor=4, methods=["mean"], **fields,
        water=[RAIN], optimise_steps=1, rain_map=raster(run, "3" * 64, np.ones(z.shape)),
    )  # fmt: skip
    assert result_values["error_ratio"]["mean"] == 1.0


@pytest.mark.parametrize(
    ("values", "match"),
    [(np.full((20, 20), 0.05), "manning_map: "), (np.full((32, 32), 7.0), "values from 7 to 7")],
)
def test_map_of_other_cells_or_values_is_refused(values, match, new_run):
    run = new_run()
    z = raster(run, SHA, np.zeros((32, 32)))
    with pytest.raises(SpecError, match=match):
        run_spec(run, kind="terrain.simulate", terrain=z, manning_map=raster(run, "2" * 64, values))


@pytest.mark.slow
def test_tuning_improves_the_error_under_all_its_waters(new_run):
    """Heights tuned under two floods at once: better than mean pooling, in the same raster grid."""
    made = {"rows": 50, "columns": 64, "cell_size_m": 8.0}
    tune = {"water": [[RAIN], [{"type": "valley", "discharge_m3_s": 60.0}]], "duration_s": 400.0}
    run = new_run()
    result_values = run_spec(
        run, kind="terrain.downsample", terrain={"synthetic": made}, factor=8,
        tune={**tune, "steps": 15},
    )  # fmt: skip
    assert result_values["error_ratio"] < 0.9
    with rasterio.open(run.dir / "coarse.tif") as file:
        assert file.shape == (7, 8)
        assert file.tags()["method"] == "mean, tuned"
    with pytest.raises(ValidationError, match="cannot be tuned through"):
        spec_of(kind="terrain.downsample", terrain={"synthetic": made},
                tune={**tune, "solver": {"froude": 1.0}})  # fmt: skip


def test_stop_during_the_fine_floods_keeps_those_done(new_run):
    """The checkpoint holds the floods done before the stop."""
    run = new_run()
    seen = []
    real = samples.fine_depths

    def third_stops(spec, run, sample):
        seen.append(sample.water)
        if len(seen) == 3:
            run.request_stop("enough", save=True)
        return real(spec, run, sample)

    samples.fine_depths = third_stops
    try:
        with pytest.raises(Exception, match="stop"):
            train.train(spec_of(**TRAIN), run)
    finally:
        samples.fine_depths = real
    (kept,) = (run.dir / "checkpoints").iterdir()
    assert sum(name.startswith("depths.") for name in load_file(kept)) == 2
