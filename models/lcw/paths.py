"""Images on the way between two vectors of noise: along the line, and along the sphere."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from models.lcw.evaluate import decode
from models.lcw.nets import Nets, in_parts
from models.lcw.stages import noise

Strips = dict[str, UInt8[Tensor, "pairs steps h w c"]]


def path_between(
    a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], steps: int, *, spherical: bool
) -> Float[Tensor, "n steps d"]:
    """Points from ``a`` to ``b``: on the line, or on the arc with radii between theirs.

    Args:
        a: first points.
        b: last points.
        steps: points of each path, both ends included.
        spherical: whether along the arc.
    """
    t = torch.linspace(0, 1, steps, device=a.device)[None, :, None]
    if not spherical:
        return a[:, None] * (1 - t) + b[:, None] * t
    p, q = a.norm(dim=1)[:, None, None], b.norm(dim=1)[:, None, None]
    u, v = a[:, None] / p, b[:, None] / q
    angle = (u * v).sum(2, keepdim=True).clamp(-1, 1).acos().clamp_min(1e-6)
    arc = (torch.sin((1 - t) * angle) * u + torch.sin(t * angle) * v) / torch.sin(angle)
    return arc * (p * (1 - t) + q * t)


def strips(nets: Nets, pairs: int, width: int, seed: int, on: str, steps: int) -> Strips:
    """Images between pairs of noise vectors, by the name of the path.

    Args:
        nets: in evaluation mode.
        pairs: of ends, drawn from the seed alone.
        width: of the noise.
        seed: of the job.
        on: torch device.
        steps: images of a strip, both ends included.
    """
    ends = noise(seed, "interpolations", 0, (2 * pairs, width), on)
    made = {}
    for name, spherical in (("linear in noise", False), ("spherical in noise", True)):
        points = path_between(ends[:pairs], ends[pairs:], steps, spherical=spherical)
        images = decode(nets.decoder, in_parts(nets.generator, points.flatten(0, 1)))
        made[name] = images.unflatten(0, (pairs, steps))
    return made
