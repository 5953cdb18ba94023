"""Runs ``terrain.compare``: the fine flood once, then the flood on every coarse terrain."""

import csv
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

from models.core.errors import SpecError
from models.core.run import Run
from models.terrain import measures, observations, view
from models.terrain.candidates import Candidate, candidates
from models.terrain.dem import rasters
from models.terrain.dem.pooling import mean, pad_to_multiple
from models.terrain.dem.rasters import refuse_coarse
from models.terrain.figures import floods, maps
from models.terrain.measures import WET_M
from models.terrain.solver.engines import Scenario, advance_to_times, scenario_of
from models.terrain.solver.placement import placement
from models.terrain.solver.validity import supercritical_share, warn_if_supercritical
from models.terrain.spec.floods import TerrainCompare
from models.terrain.spec.terrains import METHODS

HEIGHT, DEPTH = (
    rasters.BandInfo("height of the ground", "m"),
    rasters.BandInfo("depth of water", "m"),
)


class MethodResult(NamedTuple):
    """A coarse terrain and its flood."""

    name: str
    z: np.ndarray
    depth: np.ndarray
    row: dict[str, float | str]


class FineFlood(NamedTuple):
    """The fine flood: pooled depth, peak, arrival, wall seconds, cell-steps, share of fast cells.

    ``seen``: what was observed of it; ``scores``: how far it is from that.
    """

    depth: np.ndarray
    peak: np.ndarray
    arrival: np.ndarray
    seconds: float
    cell_steps: float
    supercritical: float
    seen: observations.Seen | None
    scores: dict[str, float]


def compare(spec: TerrainCompare, run: Run) -> None:
    """Measure every method against the fine flood; write table, rasters and maps.

    Raises:
        SpecError: if the water does not fit, the terrain is too small, a net is for another factor.
        DataError: if the terrain or a net cannot be used.
        UnstableError: if a flood blows up.
        StoppedError: if a stop was requested.
    """
    fine = rasters.load(spec.terrain, run, spec.seed)
    refuse_coarse(fine)
    if min(fine.z.shape) < 2 * spec.factor:
        raise SpecError(f"factor {spec.factor}: the terrain has only {fine.z.shape} cells")
    rasters.warn_of(fine, run)
    coarse_count = len(spec.methods) + len(spec.subgrids) + len(spec.nets)
    coarse_count += spec.optimise_steps > 0
    scenario = scenario_of(spec, fine, WET_M, run, floods=1 + coarse_count)
    where = placement(scenario, run, subgrid=spec.on_subgrid, heights=True)
    z = pad_to_multiple(torch.from_numpy(fine.z), spec.factor)
    _warm_up(scenario, mean(z, spec.factor).numpy(), fine.dx * spec.factor)
    truth = _fine_flood(spec, run, scenario, fine, 1 + coarse_count)
    dx = fine.dx * spec.factor
    entries: list[MethodResult] = []
    pooled = Candidate("mean", mean(z, spec.factor).numpy())
    baseline = _flood(pooled, spec, run, scenario, fine, truth)
    for coarse in candidates(spec, run, z, scenario, truth.depth, dx):
        is_mean = coarse.name == "mean"
        entry = baseline if is_mean else _flood(coarse, spec, run, scenario, fine, truth)
        ratio = float(entry.row["mae_m"]) / max(float(baseline.row["mae_m"]), 1e-12)
        moved = float(np.sqrt(np.mean((entry.z - baseline.z) ** 2)))
        entry.row.update(error_ratio=ratio, moved_rms_m=moved)
        entries.append(entry)
        _write_entry(spec, run, fine, entry, len(entries))
        run.progress(1 + len(entries), 1 + coarse_count, phase=coarse.name, unit="flood")
    _write_results(spec, run, fine, truth, entries, where)


def _warm_up(scenario: Scenario, z: np.ndarray, dx: float) -> None:
    """One short step of a coarse flood: loading and compiling are not part of the speed-up."""
    scenario.open(z, dx, coarse=True).advance(1e-6, 1)


def _fine_flood(
    spec: TerrainCompare, run: Run, scenario: Scenario, fine: rasters.Elevation, total: int
) -> FineFlood:
    seen = observations.seen_on(spec.observed, fine, run)
    began = time.perf_counter()
    flood = scenario.open(fine.z, fine.dx)
    for _ in advance_to_times(flood, [spec.duration_s], run, lambda _: None):
        run.progress(1, total, phase="fine", unit="flood")
    took = time.perf_counter() - began
    depth = measures.pooled(flood.depth[0], spec.factor).numpy()
    if not np.any(depth > WET_M):
        run.warn(
            "dry",
            f"after {spec.duration_s:g} s no coarse cell of the fine flood is deeper than"
            f" {WET_M:g} m: the methods can hardly be told apart; give more water or time",
        )
    early = pad_to_multiple(flood.arrival, spec.factor)
    arrival = -torch.nn.functional.max_pool2d(-early[None], spec.factor)[0]
    share = supercritical_share(flood.state, WET_M)
    warn_if_supercritical(run, share)
    cell_steps = float(fine.z.size) * flood.totals.steps
    peak = measures.pooled(flood.peak, spec.factor).numpy()
    scores = {} if seen is None else observations.scores(seen, fine.z, flood.peak.numpy())
    return FineFlood(depth, peak, arrival.numpy(), took, cell_steps, share, seen, scores)


def _flood(
    coarse: Candidate,
    spec: TerrainCompare,
    run: Run,
    scenario: Scenario,
    fine: rasters.Elevation,
    truth: FineFlood,
) -> MethodResult:
    name, z, tables = coarse
    began = time.perf_counter()
    flood = scenario.open(z, fine.dx * spec.factor, coarse=True, subgrid=tables)
    for _ in advance_to_times(flood, [spec.duration_s], run, lambda _: None):
        pass
    took = time.perf_counter() - began
    depth = flood.depth[0].numpy()
    row: dict[str, float | str] = {"method": name, **measures.errors(depth, truth.depth)}
    peak = flood.peak.numpy()
    row |= measures.peak_errors(peak, truth.peak)
    bed = z if tables is None else tables.bed_under(peak)
    if truth.seen is not None:
        row |= observations.scores(truth.seen, bed, peak, spec.factor)
    both = np.isfinite(truth.arrival) & np.isfinite(flood.arrival.numpy())
    late = np.abs(flood.arrival.numpy()[both] - truth.arrival[both])
    row |= {"arrival_error_s": float(late.mean()) if both.any() else 0.0}
    row |= {"speed_up": truth.seconds / max(took, 1e-9)}
    row |= {"fewer_cell_steps": truth.cell_steps / max(z.size * flood.totals.steps, 1)}
    return MethodResult(name, z, depth, row)


def _stem(entry: MethodResult) -> str:
    return entry.name.replace(" ", "-")


def _write_entry(
    spec: TerrainCompare, run: Run, fine: rasters.Elevation, entry: MethodResult, index: int
) -> None:
    """Write rasters and log metrics of one method as soon as it is done."""
    grid = rasters.coarsened(fine, entry.z, spec.factor)
    stem = _stem(entry)
    for folder, values, band in (("coarse", entry.z, HEIGHT), ("depth", entry.depth, DEPTH)):
        rasters.write(run.dir / folder / f"{stem}.tif", values, grid, band, method=entry.name)
        run.artifact(f"{folder}/{stem}.tif", role="raster", method=entry.name)
    names = {"mae_m": "mae_m", "error_ratio": "error_ratio", "csi_01": "csi_01"}
    run.log(index, **{name: float(entry.row[key]) for name, key in names.items()})


def _write_results(
    spec: TerrainCompare,
    run: Run,
    fine: rasters.Elevation,
    truth: FineFlood,
    entries: list[MethodResult],
    where: dict[str, Any],
) -> None:
    """Write table, pictures and report, ``where`` the floods ran included."""
    with (run.dir / "metrics.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(entries[0].row))
        table.writeheader()
        table.writerows(entry.row for entry in entries)
    run.artifact("metrics.csv", role="table")
    _draw(spec, run, fine, truth, entries)
    timed = ("speed_up",)
    rows = [{k: v for k, v in e.row.items() if k not in timed} for e in entries]
    _leave_view(spec, run, fine, truth, entries)
    report: dict[str, Any] = {
        "methods": rows,
        "spec": spec.model_dump(mode="json"),
        "torch": torch.__version__,
    }
    report |= where
    report |= {"assumed": fine.notes, "supercritical_share": truth.supercritical}
    report |= {"fine": truth.scores, "best_hand_made": _best_hand_made(entries)}
    run.report("report.json", report)
    speed = {e.name: float(e.row["speed_up"]) for e in entries}
    run.result(
        best=_best(entries),
        best_hand_made=_best_hand_made(entries),
        fine=truth.scores,
        peak_mae_m={e.name: float(e.row["peak_mae_m"]) for e in entries},
        mae_m={e.name: float(e.row["mae_m"]) for e in entries},
        error_ratio={e.name: float(e.row["error_ratio"]) for e in entries},
        speed_up=speed,
        fine_seconds=truth.seconds,
        supercritical_share=truth.supercritical,
    )


def _draw(
    spec: TerrainCompare,
    run: Run,
    fine: rasters.Elevation,
    truth: FineFlood,
    entries: list[MethodResult],
) -> None:
    """Depths, their differences to the fine flood, and extents."""
    shown = pad_to_multiple(torch.from_numpy(fine.z), spec.factor).numpy()
    unknown = pad_to_multiple(torch.from_numpy(fine.missing).float(), spec.factor).numpy() > 0
    wet = np.max([truth.depth, *(e.depth for e in entries)], axis=0) > floods.SHOWN_M
    part = maps.wet_part(wet, spec.factor)
    base_map = maps.BaseMap(shown, fine.dx, unknown, maps.coordinates(fine), fine.crs, part)
    panels = [
        floods.Panel(f"{e.name}: MAE {float(e.row['mae_m']):.3g} m", e.depth) for e in entries
    ]
    scene = f"{fine.name}, {spec.factor} x coarser, after {spec.duration_s:.0f} s"
    gaps_m = [float(e.row["mae_m"]) for e in entries]
    title = f"{_closest(entries, gaps_m, min)} to the depths of the fine flood ({scene})"
    truth_panel = floods.Panel("fine flood, pooled", truth.depth)
    floods.depths(run.dir / "depths.png", base_map, [truth_panel, *panels], title)
    gaps = [floods.Panel(panel.title, panel.values - truth.depth) for panel in panels]
    label = "coarse less pooled fine depth (m)"
    floods.differences(run.dir / "differences.png", base_map, gaps, title, label)
    marks = [floods.Panel(f"{e.name}: CSI {float(e.row['csi_01']):.2f}", e.depth) for e in entries]
    shares = [float(e.row["csi_01"]) for e in entries]
    title = f"{_closest(entries, shares, max)} to the extent of the fine flood ({scene})"
    floods.extents(run.dir / "extent.png", base_map, truth.depth, marks, WET_M, title)
    for name in ("depths.png", "differences.png", "extent.png"):
        run.figure(name)


def _closest(
    entries: list[MethodResult],
    scores: list[float],
    choose: Callable[[Iterable[float]], float],
) -> str:
    """Which methods come closest; several where they are equal."""
    best = choose(scores)
    names = [e.name for e, score in zip(entries, scores, strict=True) if score == best]
    if len(names) == len(entries) > 1:
        return "All methods come equally close"
    return f"{names[0]} comes closest" if len(names) == 1 else f"{' and '.join(names)} come closest"


def _leave_view(
    spec: TerrainCompare,
    run: Run,
    fine: rasters.Elevation,
    truth: FineFlood,
    entries: list[MethodResult],
) -> None:
    """Coarse terrains beside the fine one, and their depths beside its, for the page."""
    grid, pooled = rasters.coarsened(fine, truth.depth, spec.factor), "depth/fine.tif"
    rasters.write(run.dir / pooled, truth.depth, grid, DEPTH, method="fine, pooled")
    run.artifact(pooled, role="raster", method="fine, pooled")
    high = floods.full_depth([truth.depth])

    def depth(name: str, file: str) -> view.ViewLayer:
        return view.ViewLayer(name, "m", "water", [(file, None)], high, cells=spec.factor)

    layers = [depth("depth, fine pooled", pooled), view.heights("fine", view.GROUND, fine.z)]
    for entry in entries:
        file = f"{_stem(entry)}.tif"
        layers.append(depth(f"depth, {entry.name}", f"depth/{file}"))
        layers.append(view.heights(entry.name, f"coarse/{file}", entry.z, spec.factor))
    view.write(run, fine, layers, (layers[0].title, layers[2].title))


def _best(entries: list[MethodResult]) -> str | None:
    """The method of the least error; None where there is none, or where several share it."""
    errors_m = {e.name: float(e.row["mae_m"]) for e in entries}
    least_m = min(errors_m.values(), default=None)
    names = [name for name, error_m in errors_m.items() if error_m == least_m]
    return names[0] if len(names) == 1 else None


def _best_hand_made(entries: list[MethodResult]) -> str | None:
    """The pooling to take for ``terrain.downsample`` of this terrain; None if none was tried."""
    return _best([entry for entry in entries if entry.name in METHODS])
