"""Runs ``terrain.downsample``: a fine raster in, a coarse one out."""

from typing import Any

import numpy as np
import torch

from models.core.errors import SpecError
from models.core.run import Run
from models.terrain import view
from models.terrain.dem import rasters, subgrid_file
from models.terrain.dem.pooling import BASELINES, mean, pad_to_multiple
from models.terrain.figures import floods, maps
from models.terrain.learning import face_net, tuning, weights
from models.terrain.learning.faces import improve_faces
from models.terrain.learning.search import Searched
from models.terrain.solver.subgrid import SubgridTerrain, subgrid_of
from models.terrain.spec.floods import TerrainDownsample, Tune
from models.terrain.spec.terrains import SUBGRID_FILE

HEIGHT = rasters.BandInfo("height of the ground", "m")


def downsample(spec: TerrainDownsample, run: Run) -> None:
    """Write ``coarse.tif``: same corner and CRS, cells ``factor`` times as large, nodata kept.

    With method ``subgrid`` or ``learned`` it has the mean heights, and ``subgrid.nc`` the tables.

    Raises:
        SpecError: if the terrain is smaller than a coarse cell, or the net is for another factor.
        DataError: if the terrain or the net cannot be used.
        StoppedError: if a stop was requested.
    """
    fine = rasters.load(spec.terrain, run, spec.seed)
    rasters.refuse_coarse(fine)
    ny, nx = fine.z.shape
    least = spec.factor * (1 if spec.tune is None else 2)
    if min(ny, nx) < least:
        raise SpecError(f"factor is {spec.factor}; the terrain has only {ny} x {nx} cells")
    rasters.warn_of(fine, run)
    run.check_stop()
    if spec.edges == "crop":
        fine = rasters.cropped(fine, spec.factor)
        ny, nx = fine.z.shape
    z = pad_to_multiple(torch.from_numpy(fine.z), spec.factor)
    pooled = mean(z, spec.factor).numpy()
    coarse, title = _coarse_heights(spec, run, z)
    tables = _tables(spec, run, z, fine.dx) if spec.on_subgrid else None
    figures: dict[str, Any] = {}
    if spec.tune is not None:
        coarse, tables, best = _tuned(spec, spec.tune, fine, coarse, tables, run)
        figures = {"error_ratio": best.error, "start_ratio": best.first}
        title = f"{title}, tuned" if best.step else title
    run.progress(1, 1, phase="downsample")
    padding = {"rows": z.shape[0] - ny, "columns": z.shape[1] - nx}
    target = rasters.coarsened(fine, coarse, spec.factor)
    tags = {f"padded_{name}": count for name, count in padding.items()}
    rasters.write(
        run.dir / "coarse.tif", coarse, target, HEIGHT, method=title, factor=spec.factor, **tags
    )
    run.artifact("coarse.tif", role="raster")
    if tables is not None:
        subgrid_file.write(run.dir / SUBGRID_FILE, target._replace(subgrid=tables))
        run.artifact(SUBGRID_FILE, role="raster", factor=spec.factor)
    moved, known = coarse - pooled, ~target.missing
    figures |= {"moved_rms_m": float(np.sqrt(np.mean(moved[known].astype(np.float64) ** 2)))}
    run.log(1, **figures)
    figures |= {
        "rows": coarse.shape[0],
        "columns": coarse.shape[1],
        "cell_size_m": target.dx,
        **tags,
    }
    _draw(run, fine, z.numpy(), coarse, moved, f"{fine.name}, {title}, factor {spec.factor}")
    layers = [
        view.heights("fine", view.GROUND, fine.z),
        view.heights("coarse", "coarse.tif", coarse, spec.factor),
    ]
    view.write(run, fine, layers, ("fine", "coarse"))
    report = {"result": figures, "spec": spec.model_dump(mode="json"), "torch": torch.__version__}
    report["assumed"] = fine.notes
    run.report("report.json", report)
    run.result(**figures)


def _tables(spec: TerrainDownsample, run: Run, z: torch.Tensor, fine_dx: float) -> SubgridTerrain:
    """The subgrid of fine heights; for method ``learned`` with the faces of a net.

    Raises:
        DataError: if the net's file is damaged.
        SpecError: if it holds another net, or one for another factor.
    """
    untrained = subgrid_of(z, spec.factor)
    if spec.method == "subgrid":
        return untrained
    if spec.net is None:
        net = face_net.shipped(spec.factor)
    else:
        net = face_net.load(run.input(spec.net))
        weights.check_factor(spec, spec.net, net.factor)
    return face_net.improved(net, z, untrained, fine_dx * spec.factor, run.check_stop)


def _tuned(
    spec: TerrainDownsample,
    tune: Tune,
    fine: rasters.Elevation,
    coarse: np.ndarray,
    tables: SubgridTerrain | None,
    run: Run,
) -> tuple[np.ndarray, SubgridTerrain | None, Searched]:
    """Coarse heights and subgrid after tuning: of a subgrid the faces are tuned, else the heights.

    Where no step was better under the floods that judge, what it began with.
    """
    dx = fine.dx * spec.factor
    pooled = mean(pad_to_multiple(torch.from_numpy(fine.z), spec.factor), spec.factor).numpy()
    tasks, held_out = (
        tuning.tasks_of(tune, waters, fine, pooled, spec.factor, run)
        for waters in (tune.water, tune.validation)
    )
    if tables is None:
        coarse, best = tuning.improve(coarse, dx, tasks, tune.steps, run, held_out)
    else:
        tables, best = improve_faces(tables, dx, tasks, held_out, tune.steps, run)
    if best.step == 0:
        run.warn("not_tuned", "no step of the tuning was better: the terrain is the untuned one")
    return coarse, tables, best


def _coarse_heights(spec: TerrainDownsample, run: Run, z: torch.Tensor) -> tuple[np.ndarray, str]:
    """Coarse heights in m by the net or the baseline, and its name."""
    if spec.method == "subgrid" or spec.method == "learned":
        which = "learned subgrid" if spec.method == "learned" else "subgrid"
        return mean(z, spec.factor).numpy(), f"mean heights of the {which}"
    if spec.net is None:
        return BASELINES[spec.method](z, spec.factor).numpy(), spec.method
    solver = None if spec.tune is None else spec.tune.solver
    net = weights.load_for(spec, spec.net, run, solver)
    return weights.apply(net, z, run.device), "trained net"


def _draw(
    run: Run,
    fine: rasters.Elevation,
    z: np.ndarray,
    coarse: np.ndarray,
    moved: np.ndarray,
    title: str,
) -> None:
    factor = z.shape[0] // coarse.shape[0]
    unknown = pad_to_multiple(torch.from_numpy(fine.missing).float(), factor).numpy() > 0
    base_map = maps.BaseMap(z, fine.dx, unknown, maps.coordinates(fine), fine.crs)
    panels = [floods.Panel("fine", z), floods.Panel("coarse", coarse)]
    difference = floods.Panel("coarse less mean pooling", moved)
    most = float(np.nanmax(np.abs(base_map.known(moved))))
    finding = f"{title}: up to {most:.3g} m from mean pooling"
    floods.terrains(run.dir / "coarse.png", base_map, panels, difference, finding)
    run.figure("coarse.png")
