"""From features of a face to its sill shift and frictions, all zero where nothing was learned."""

import torch
from torch import Tensor

from models.terrain.learning.face_features import FaceFeatures
from models.terrain.learning.face_net import share_of

FEATURES, WIDTH, OUT = 12, 24, 3
MOST_SHIFT = 3.0  # standard deviations of the heights of both cells
COUNTS = {"constants": OUT, "linear": OUT * (FEATURES + 1)}


def initial(model: str, generator: torch.Generator) -> list[Tensor]:
    """Parameters before training."""
    if model == "constants":
        return [torch.zeros(OUT)]
    if model == "linear":
        return [torch.zeros(OUT), torch.zeros(OUT, FEATURES)]
    first = torch.randn(WIDTH, FEATURES, generator=generator) / FEATURES**0.5
    second = torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5
    return [
        torch.zeros(OUT),
        torch.zeros(OUT, WIDTH),
        first,
        torch.zeros(WIDTH),
        second,
        torch.zeros(WIDTH),
    ]


def six_of(model: str, parameters: list[Tensor] | float, faces: FaceFeatures) -> list[Tensor]:
    """Shift in m, film and deep of faces of one direction [ny, nx]."""
    if model == "physical":
        assert isinstance(parameters, float)
        shift = parameters * torch.sinh(faces.values[..., 0]) * faces.scale
        losses = parameters * (2 * faces.values[..., -2:]).clamp(-2, 2)
        return [shift, losses[..., 0], losses[..., 1]]
    assert isinstance(parameters, list)
    values = faces.values
    if model == "constants":
        out = parameters[0].expand(*values.shape[:-1], OUT)
    elif model == "linear":
        out = parameters[0] + values @ parameters[1].mT
    else:
        bias, head, first, one, second, two = parameters
        hidden = torch.tanh(values @ first.mT + one)
        out = bias + torch.tanh(hidden @ second.mT + two) @ head.mT
    shift = MOST_SHIFT * torch.tanh(out[..., 0] / MOST_SHIFT) * faces.scale
    six = [shift, 2 * torch.tanh(out[..., 1] / 2), 2 * torch.tanh(out[..., 2] / 2)]
    return [share_of(faces) * field for field in six] if model == "net" else six
