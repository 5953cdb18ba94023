"""The coarse floods of a training of faces: on subgrids, whose faces a net changes."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from models.core.run import Run
from models.terrain.learning.coarse_floods import GRADIENT_FLOODS, depths_by_faces
from models.terrain.learning.face_features import FaceFeatures, features_of
from models.terrain.learning.face_net import FaceNet
from models.terrain.learning.samples import TrainingSample, times_of
from models.terrain.solver.boundary import physics_of
from models.terrain.solver.engines import is_tiny
from models.terrain.solver.subgrid import FaceChange, SubgridTerrain, changed, subgrid_of
from models.terrain.spec.train import TerrainTrain


class FaceScene(NamedTuple):
    """The untrained subgrid of a terrain, heights about its datum, and what the net sees of it."""

    terrain: SubgridTerrain
    features: tuple[FaceFeatures, FaceFeatures]


class FaceFloods:
    """Floods as functions of a net of faces, on the CPU; terrains are prepared when first used.

    Args:
        data: training samples.
        spec: of the training.
        run: checked for a stop.
    """

    def __init__(self, data: list[TrainingSample], spec: TerrainTrain, run: Run) -> None:
        self.data, self.times, self.factor = data, times_of(spec), spec.factor
        self.physics, self._run = physics_of(spec.solver, coarse=True), run
        sample = data[0]
        cells = sample.z.numel() // spec.factor**2
        floods = GRADIENT_FLOODS * spec.epochs * len(data)
        self.by_reference = is_tiny(cells, sample.dx, self.times[-1], spec.solver, floods)
        self._scenes: dict[int, tuple[Tensor, FaceScene]] = {}

    def scene(self, sample: TrainingSample) -> FaceScene:
        """Of a sample's terrain; samples of one terrain share their heights."""
        if id(sample.z) not in self._scenes:
            terrain = subgrid_of(sample.z, self.factor)
            features = features_of(sample.z, terrain, sample.dx, self._run.check_stop)
            self._scenes[id(sample.z)] = sample.z, FaceScene(terrain, features)
        return self._scenes[id(sample.z)][1]

    def __call__(self, net: FaceNet, chosen: list[int]) -> Float[Tensor, "times b ny nx"]:
        """Mean depths at the target times of the chosen samples, in m.

        Raises:
            UnstableError: if a flood blows up.
        """
        boundaries, changes = [], []
        for sample in (self.data[k] for k in chosen):
            terrain, features = self.scene(sample)
            conditions = sample.scenario.boundary_conditions
            boundaries.append(conditions(terrain.lowest, sample.datum, sample.dx, terrain.tables))
            changes.append(net.both(features))
        x, y = (
            FaceChange(*map(torch.cat, zip(*faces, strict=True)))
            for faces in zip(*changes, strict=True)
        )
        return depths_by_faces(
            x, y, boundaries, self.physics, self.times, by_reference=self.by_reference
        )

    def at_end(self, net: FaceNet, sample: TrainingSample) -> Float[np.ndarray, "ny nx"]:
        """Mean depth in m at the end of a sample's flood.

        Raises:
            UnstableError: if the flood blows up.
        """
        terrain, features = self.scene(sample)
        with torch.no_grad():
            tables = changed(terrain.tables, terrain.lowest, *net.both(features))
        made = terrain._replace(tables=tables).over(-sample.datum)
        flood = sample.scenario.open(made.lowest[0].numpy(), sample.dx, coarse=True, subgrid=made)
        flood.advance(self.times[-1], 2**62)
        return flood.depth[0].numpy()
