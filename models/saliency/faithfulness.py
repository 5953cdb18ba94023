"""Graders that compare a map with the score under random perturbations, and with a known box."""

import torch
from jaxtyping import Float
from torch import Tensor

from models.saliency import counter
from models.saliency.case import Case
from models.saliency.metrics import Correlation, Infidelity, Localisation


def infidelity(part: Infidelity, values: Float[Tensor, "h w"], case: Case, k: int) -> float:
    """``E[(<I, phi> - (f(x) - f(x - I)))^2]`` (Yeh et al. 2019, eq. 1).

    The map serves every channel; a square's I is x itself there, so that x - I is 0 in it.
    """
    moves, falls = [], []
    for index in torch.arange(part.samples, device=values.device).split(case.chunk):
        change = _change(part, index, case)
        moves.append((change.double() * values.double()).sum((1, 2, 3)))
        falls.append(case.full[k] - case.score(case.x - change)[:, k])
    move, fall = torch.cat(moves), torch.cat(falls)
    if part.optimal_scale:
        move = move * ((move * fall).mean() / move.square().mean().clamp(min=1e-300))
    return (move - fall).square().mean().item()


def _change(part: Infidelity, index: Tensor, case: Case) -> Float[Tensor, "n c h w"]:
    c, h, w = case.x.shape
    if part.perturbation == "noise":
        drawn = counter.normal((case.seed, 7), counter.NOISE, index, c * h * w)
        return (part.sigma * drawn).view(-1, c, h, w).to(case.x)
    side = (min(part.side, h), min(part.side, w))
    u = counter.uniform((case.seed, 7), counter.SHIFTS, index, 2)
    top, left = (u[:, 0] * (h - side[0] + 1)).long(), (u[:, 1] * (w - side[1] + 1)).long()
    rows = torch.arange(h, device=index.device) - top[:, None]
    columns = torch.arange(w, device=index.device) - left[:, None]
    inside = ((rows >= 0) & (rows < side[0]))[:, :, None]
    inside = inside & ((columns >= 0) & (columns < side[1]))[:, None, :]
    return case.x * inside[:, None]


def correlation(
    part: Correlation, values: Float[Tensor, "h w"], b: Float[Tensor, "c h w"], case: Case, k: int
) -> float | None:
    """Pearson's correlation over random subsets of pixels; None where one side is constant."""
    size, sums, falls = min(part.subset, values.numel()), [], []
    for index in torch.arange(part.runs, device=values.device).split(case.chunk):
        drawn = counter.words((case.seed, 8), counter.CELLS, index, values.numel())
        chosen = drawn.argsort(dim=1, stable=True)[:, :size]
        mask = torch.zeros(len(index), values.numel(), dtype=torch.bool, device=values.device)
        mask.scatter_(1, chosen, value=True)
        mask = mask.view(-1, *values.shape)
        sums.append((values.double() * mask).sum((1, 2)))
        falls.append(case.full[k] - case.score(torch.where(mask[:, None], b, case.x))[:, k])
    pair = torch.stack([torch.cat(sums), torch.cat(falls)])
    if (pair.std(1) < 1e-12 * (1 + pair.abs().amax(1))).any():
        return None
    return torch.corrcoef(pair)[0, 1].item()


def localisation(part: Localisation, values: Float[Tensor, "h w"]) -> float:
    """1 or 0: the maximum within ``tolerance`` pixels of the box; or the positive mass in it."""
    top, left, bottom, right = part.box
    if part.id == "mass_in_box":
        positive = values.double().clamp(min=0)
        inside = positive[top:bottom, left:right].sum()
        return (inside / positive.sum().clamp(min=1e-300)).item()
    place = int(values.argmax())
    row, column = divmod(place, values.shape[1])
    down = max(top - row, row - (bottom - 1), 0)
    right_of = max(left - column, column - (right - 1), 0)
    return float(down**2 + right_of**2 <= part.tolerance**2)
