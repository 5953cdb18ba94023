"""The net of faces: sill shift and frictions of a face from the fine heights beside it.

One small net for all faces of both directions, so a transposed or mirrored terrain gets transposed
or mirrored faces. Trained nets for factors 4, 8 and 16 are part of the package.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.core import checkpoint
from models.core.errors import SpecError
from models.terrain.learning.face_features import COUNT, FaceFeatures, features_of
from models.terrain.solver.subgrid import FaceChange, SubgridTerrain, changed

WIDTH = 24
MOST_SHIFT, MOST_LOG = 3.0, 2.0  # in s of the features; logarithms of friction factors
HALF_RELIEF_M = 0.005  # at which half of a change is left
NAME = "terrain_faces"
FOLDER = Path(__file__).parent / "nets"


class FaceNet(nn.Module):
    """Features of faces to their change; without training, none.

    Args:
        factor: fine cells a coarse cell and side that it is for.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.first, self.second = nn.Linear(COUNT, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 3)
        for layer in (self.first, self.second):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, faces: FaceFeatures) -> FaceChange:
        """Changes of the faces of one direction [1, ny, nx].

        None on a plane, where the untrained subgrid is exact; all but whole from 3 cm of relief on.
        """
        hidden = torch.tanh(self.second(torch.tanh(self.first(faces.values))))
        shift, film, deep = self.head(hidden)[None].unbind(-1)
        share = share_of(faces)
        return FaceChange(
            share * MOST_SHIFT * torch.tanh(shift / MOST_SHIFT) * faces.scale,
            share * MOST_LOG * torch.tanh(film / MOST_LOG),
            share * MOST_LOG * torch.tanh(deep / MOST_LOG),
        )

    def both(self, features: tuple[FaceFeatures, FaceFeatures]) -> tuple[FaceChange, FaceChange]:
        """Changes of the faces between columns and between rows, from :func:`features_of`."""
        return self(features[0]), self(features[1]).mT


def share_of(faces: FaceFeatures) -> Float[Tensor, "ny nx"]:
    """How much of a change is left: none on a plane, nearly all from 3 cm of relief on."""
    return faces.relief**2 / (faces.relief**2 + HALF_RELIEF_M**2)


def improved(
    net: FaceNet,
    z: Float[Tensor, "ny nx"],
    terrain: SubgridTerrain,
    dx: float,
    check: Callable[[], None],
) -> SubgridTerrain:
    """The subgrid with the faces that a net gives it.

    Args:
        net: for its factor.
        z: fine heights, m, rows and columns multiples of the factor.
        terrain: their untrained subgrid.
        dx: side of a coarse cell, m.
        check: called now and then, to stop by an exception.
    """
    with torch.no_grad():
        faces = net.both(features_of(z, terrain, dx, check))
        tables = changed(terrain.tables, terrain.lowest, *faces)
    return terrain._replace(tables=tables)


def load(path: Path) -> FaceNet:
    """The net of a file, on the CPU.

    Raises:
        DataError: if the file is damaged.
        SpecError: if it holds another net.
    """
    tensors, metadata = checkpoint.read(path)
    shape = metadata.get("net")
    if not isinstance(shape, dict) or shape.get("name") != NAME:
        raise SpecError(f"{path.name} holds no net of faces: {shape}")
    net = FaceNet(shape["factor"])
    net.load_state_dict(tensors)
    return net.eval()


def shipped(factor: int) -> FaceNet:
    """The trained net of the package for a factor of 4, 8 or 16; its card is in ``nets/``."""
    return load(FOLDER / f"faces-{factor}.safetensors")
