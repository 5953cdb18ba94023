"""Feature ablation, LIME, kernel SHAP and exact Shapley values over segments of an image.

A coalition is a set of segments to keep; the others are replaced by the baseline.
"""

import hashlib
import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from models.core.errors import SpecError
from models.saliency import philox
from models.saliency.methods.baselines import Replacement, image_of
from models.saliency.methods.case import Case
from models.saliency.methods.segments import regions, segment
from models.saliency.spec.masks import FeatureAblation, GridSegments, KernelShap, Lime, ShapleyExact

RANK_TOLERANCE = 1e-10  # relative, for eigenvalues of the normal equations


def ablation(part: FeatureAblation, case: Case, b: Replacement) -> Float[Tensor, "k h w"]:
    """``f(x) - f(x with the segment = b)`` at each pixel of the segment, float64."""
    labels = segment(part.segments, case)
    shape = tuple(labels.shape)
    if isinstance(part.segments, GridSegments):
        key = ("grid", part.segments.rows, shape)
    else:
        key = ("labels", hashlib.sha256(labels.cpu().numpy().tobytes()).digest())
    differences = case.full - case.scores_with_replaced(key, lambda: regions(labels), b)
    return differences.T[:, labels]


def coalition_scores(
    kept: Bool[Tensor, "n j"], labels: Int64[Tensor, "h w"], case: Case, b: Replacement
) -> Float[Tensor, "n k"]:
    """Scores of the image with only the kept segments, the others replaced by the baseline.

    Args:
        kept: coalitions of the j segments.
        labels: segment of each pixel.
        case: the image.
        b: the baseline.
    """
    return case.scores(lambda index: case.replace(~kept[index][:, labels], b), len(kept))


def lime(part: Lime, case: Case, b: Replacement) -> Float[Tensor, "k h w"]:
    """Coefficients of a weighted ridge regression (LIME, section 3.4), at each pixel, float64.

    A coalition keeps each segment with probability 1/2. Its weight is exp(-D^2 / width^2), with D
    the cosine distance from the coalition of all segments. The intercept is not penalised.
    """
    labels = segment(part.segments, case)
    count = int(labels.max()) + 1
    index = torch.arange(part.samples, device=case.x.device)
    kept = philox.uniform((case.seed, 0), philox.CELLS, index, count) < 0.5
    y = coalition_scores(kept, labels, case, b)
    z = kept.double()
    distance = 1 - (z.sum(1) / count).sqrt()
    weight = torch.exp(-((distance / part.width) ** 2))[:, None]
    centre, mean = ((weight * v).sum(0) / weight.sum() for v in (z, y))
    left = (z - centre).T @ (weight * (z - centre))
    left = left + part.ridge * torch.eye(count, dtype=left.dtype, device=left.device)
    coefficients = _solve(left, (z - centre).T @ (weight * (y - mean)))
    return coefficients.T[:, labels]


def kernel_shap(part: KernelShap, case: Case, b: Replacement) -> Float[Tensor, "k h w"]:
    """Shapley values by regression (Lundberg and Lee 2017, theorem 2), at each pixel, float64.

    Coalition sizes k of J segments are drawn in proportion to the kernel (J - 1) / (k (J - k)),
    members uniformly. The last coefficient is eliminated, so the values sum to ``f(x) - f(b)``
    exactly.

    Raises:
        SpecError: if there are fewer than two segments.
    """
    labels = segment(part.segments, case)
    count = int(labels.max()) + 1
    kept = draw_coalitions(part, case, count)
    empty = case.score(image_of(b)[None])
    # Computed again, so that both ends pass through the net in the same way.
    whole = case.score(case.x[None])
    y, z = coalition_scores(kept, labels, case, b) - empty, kept.double()
    total = whole - empty
    left = z[:, :-1] - z[:, -1:]
    first = _solve(left.T @ left, left.T @ (y - z[:, -1:] * total))
    values = torch.cat([first, total - first.sum(0, keepdim=True)])
    return values.T[:, labels]


def draw_coalitions(part: KernelShap, case: Case, count: int) -> Bool[Tensor, "n {count}"]:
    """Coalitions drawn under the Shapley kernel, from (seed, index).

    Raises:
        SpecError: if there are fewer than two segments.
    """
    if count < 2:
        raise SpecError("segments: kernel_shap needs two segments or more; use more of them")
    index = torch.arange(part.samples, device=case.x.device)
    source = index // 2 if part.paired else index
    sizes = torch.arange(1, count, device=case.x.device).double()
    share = (1 / (sizes * (count - sizes))).cumsum(0)
    u = philox.uniform((case.seed, 0), philox.SHIFTS, source, 1)[:, 0]
    size = 1 + torch.searchsorted(share / share[-1], u)
    order = philox.uniform((case.seed, 0), philox.CELLS, source, count)
    kept = order.argsort(dim=1, stable=True).argsort(dim=1, stable=True) < size[:, None]
    return kept ^ ((index % 2 == 1)[:, None] & part.paired)


def shapley(part: ShapleyExact, case: Case, b: Replacement) -> Float[Tensor, "k h w"]:
    """Exact Shapley values from the scores of all 2^J coalitions, at each pixel, float64."""
    labels = segment(part.segments, case)
    count = int(labels.max()) + 1
    code = torch.arange(2**count, device=case.x.device)
    kept = (code[:, None] >> torch.arange(count, device=case.x.device)) & 1 == 1
    y = coalition_scores(kept, labels, case, b)
    size = kept.sum(1)
    weights = [
        math.factorial(s) * math.factorial(count - s - 1) / math.factorial(count)
        for s in range(count)
    ]
    weight = torch.tensor([*weights, 0.0], dtype=torch.float64, device=y.device)
    values = []
    for j in range(count):
        rest = code[~kept[:, j]]
        gain = y[rest + 2**j] - y[rest]
        values.append((weight[size[rest]][:, None] * gain).sum(0))
    return torch.stack(values, 1)[:, labels]


def _solve(left: Float[Tensor, "j j"], right: Float[Tensor, "j k"]) -> Float[Tensor, "j k"]:
    """Least-norm solution of a symmetric positive semidefinite system."""
    return torch.linalg.pinv(left, hermitian=True, rtol=RANK_TOLERANCE) @ right
