"""Masks optimised by gradient descent: meaningful and extremal perturbations."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from models.core import optimizers
from models.saliency import philox
from models.saliency.methods.baselines import blur
from models.saliency.methods.case import Case
from models.saliency.spec.gradients import Extremal, Meaningful

LEVELS, SIGMA_MAX = 8, 20.0  # of the pyramid of blurs (TorchRay)
COLDNESS = 20.0  # of the smooth maximum
AREA_WEIGHT, AREA_GROWTH = 300.0, 1.0035
MOMENTUM, RATE = 0.9, 0.01


def meaningful(part: Meaningful, case: Case, b: Float[Tensor, "c h w"]) -> Float[Tensor, "k h w"]:
    """``1 - m`` for the mask m that minimises ``f + l1 mean(1 - m) + tv mean |grad m|^beta``.

    Fong and Vedaldi 2017, eq. 4, with means in place of sums, optimised by Adam; in each step the
    input is shifted by up to ``jitter`` pixels.
    """
    return torch.stack([_meaningful(part, case, b, k) for k in case.targets.tolist()])


@torch.inference_mode(mode=False)
@torch.enable_grad()
def _meaningful(part: Meaningful, case: Case, b: Tensor, target: int) -> Float[Tensor, "h w"]:
    x, b = case.x.clone(), b.clone()
    mask = torch.full((1, 1, part.side, part.side), 0.5, dtype=x.dtype, device=x.device)
    mask.requires_grad_(True)
    adam = optimizers.Adam([mask], lr=part.lr)
    index = torch.arange(part.iterations, device=x.device)
    shifts = philox.words((case.seed, 3), philox.SHIFTS, index, 2) % (2 * part.jitter + 1)
    for down, right in (shifts - part.jitter).tolist():
        m = _enlarged(mask, x)
        shown = torch.roll(torch.lerp(b, x, m), (down, right), (2, 3))
        score = case.scorer.scores(case.scorer.net(shown).double())[0, target]
        steps = [mask.diff(dim=axis).abs().pow(part.beta).mean() for axis in (2, 3)]
        loss = score + part.l1 * (1 - mask).mean() + part.tv * (steps[0] + steps[1])
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            mask.clamp_(0, 1)
        case.scorer.tick(1)
    return 1 - _enlarged(mask.detach(), x)[0, 0].double()


def _enlarged(mask: Tensor, x: Tensor) -> Tensor:
    return F.interpolate(mask, tuple(x.shape[1:]), mode="bilinear", align_corners=False)


def extremal(part: Extremal, case: Case, b: Float[Tensor, "c h w"]) -> Float[Tensor, "k h w"]:
    """Sum over areas of the masks that best preserve (or delete) the class.

    Fong, Patrick, Vedaldi 2019, eq. 4 and 8, with the constants of the authors' TorchRay.
    """
    maps = []
    for target in case.targets.tolist():
        masks = [_extremal(part, case, b, target, area) for area in part.areas]
        maps.append(torch.stack(masks).sum(0))
    return torch.stack(maps)


@torch.inference_mode(mode=False)
@torch.enable_grad()
def _extremal(
    part: Extremal, case: Case, b: Tensor, target: int, area: float
) -> Float[Tensor, "h w"]:
    x, b = case.x.clone(), b.clone()
    smooth = _SmoothMax(part, x)
    cells = smooth.cells.requires_grad_(True)
    sgd = optimizers.Sgd([cells], lr=RATE, momentum=MOMENTUM, dampening=MOMENTUM)
    pyramid = _pyramid(part, x, b)
    wanted = torch.zeros(x[0].numel(), dtype=x.dtype, device=x.device)
    wanted[len(wanted) - round(area * len(wanted)) :] = 1  # the sorted mask of this area
    weight = AREA_WEIGHT
    for step in range(part.iterations):
        m = smooth()
        shown = _shown(part, m, pyramid)
        shown = shown.flip(-1) if step % 2 else shown
        scores = case.scorer.scores(case.scorer.net(shown).double())[:, target]
        off = (m.flatten().sort().values - wanted).square().mean()
        loss = -_reward(part, scores) + weight * off
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        with torch.no_grad():
            cells.clamp_(0, 1)
        weight *= AREA_GROWTH
        case.scorer.tick(len(shown))
    return smooth().detach().double()


def _reward(part: Extremal, scores: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    if part.variant == "dual":
        return scores[0] - scores[1]
    return scores[0] if part.variant == "preserve" else -scores[0]


def _shown(part: Extremal, m: Float[Tensor, "h w"], pyramid: Tensor) -> Float[Tensor, "n c h w"]:
    """The perturbed image for the mask, for its complement, or for both."""
    kept = {"preserve": [m], "delete": [1 - m], "dual": [m, 1 - m]}[part.variant]
    return torch.stack([_between(mask, pyramid) for mask in kept])


def _between(m: Float[Tensor, "h w"], pyramid: Float[Tensor, "levels c h w"]) -> Tensor:
    """Each pixel interpolated between the two pyramid levels around its mask value."""
    top = len(pyramid) - 1
    at = m.clamp(0, 1) * top
    low = at.detach().floor().clamp(max=top - 1).long()
    share = (at - low)[None]
    index = low[None, None].expand(1, *pyramid.shape[1:])
    below, above = (torch.gather(pyramid, 0, i)[0] for i in (index, index + 1))
    return (1 - share) * below + share * above


def _pyramid(part: Extremal, x: Tensor, b: Tensor) -> Float[Tensor, "levels c h w"]:
    """Images from the most perturbed level to the unperturbed image."""
    if part.perturbation == "fade":
        return torch.stack([b, x])
    sigmas = [SIGMA_MAX * (1 - level / (LEVELS - 1)) for level in range(LEVELS - 1)]
    return torch.stack([*(blur(x, sigma) for sigma in sigmas), x])


class _SmoothMax:
    """A mask from a grid of cells: each pixel is the smooth maximum of nearby cells.

    A cell at distance z sigma is weighted by exp(-2 max(z - 1/2, 0)^2); the smooth maximum is the
    softmax-weighted mean with coldness 20 (README, eq. 9).
    """

    def __init__(self, part: Extremal, x: Tensor) -> None:
        height, width = x.shape[1:]
        reach = 0.5 + math.sqrt(-0.5 * math.log(1e-3))  # beyond, cells weigh less than 1e-3
        radius = math.ceil(reach * part.sigma / part.step)
        rows, columns = (math.ceil(n / part.step) + 2 * radius for n in (height, width))
        self.cells = torch.ones(1, 1, rows, columns, dtype=x.dtype, device=x.device)
        self.side = 2 * radius + 1
        self.size, self.cell_size = (height, width), part.step
        offset = torch.arange(-radius, radius + 1, device=x.device) * part.step
        inside = torch.arange(part.step, device=x.device)
        distance = offset[:, None] + (part.step - 1) / 2 - inside  # [side, step]
        square = distance[:, None, :, None] ** 2 + distance[None, :, None, :] ** 2
        z = square.to(x.dtype).sqrt() / part.sigma
        kernel = torch.exp(-2 * (z - 0.5).clamp(min=0) ** 2)
        self.kernel = kernel.reshape(self.side**2, part.step**2)  # neighbour, pixel in cell

    def __call__(self) -> Float[Tensor, "h w"]:
        """The mask at pixel resolution."""
        near = F.unfold(self.cells, self.side)[0]  # [neighbours, cells]
        weighted = near[:, None, :] * self.kernel[:, :, None]  # [neighbours, pixels, cells]
        share = (COLDNESS * weighted).softmax(0)
        values = (share * weighted).sum(0)  # [pixels, cells]
        rows, columns = (math.ceil(n / self.cell_size) for n in self.size)
        size = (rows * self.cell_size, columns * self.cell_size)
        whole = F.fold(values[None], size, self.cell_size, stride=self.cell_size)[0, 0]
        return whole[: self.size[0], : self.size[1]]
