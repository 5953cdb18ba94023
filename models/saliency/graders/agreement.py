"""Agreement between maps, and between the rankings of graders."""

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from skimage.metrics import structural_similarity

TOP_SHARES = (0.05, 0.1, 0.2)
POOLED = 28  # side of the pooled maps that Kendall's tau compares
TIED = 0.01  # share of pixels tied at the threshold above which a top set is meaningless

Map = Float[np.ndarray, "h w"]


def compare(a: Map, b: Map) -> dict[str, float | str | None]:
    """All measures of agreement of two maps of one size; null with a ``reason`` if one is flat.

    Kendall's tau is that of maps pooled to 28 x 28 and is named so; maps smaller than that are
    compared pixel by pixel, under their own size.
    """
    height, width = (min(POOLED, length) for length in a.shape)
    kendall = f"kendall_{height}x{width}"
    if min(np.ptp(a), np.ptp(b)) == 0:
        names = ("spearman", "pearson", kendall, "ssim", "cosine", "centre_shift")
        tops = tuple(f"iou_{share:g}" for share in TOP_SHARES)
        return {**dict.fromkeys((*names, *tops)), "reason": "a map is constant"}
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return {
        "spearman": float(stats.spearmanr(x, y).statistic),
        "pearson": float(np.corrcoef(x, y)[0, 1]),
        kendall: _finite(stats.kendalltau(_pooled(a), _pooled(b)).statistic),
        "ssim": ssim(a, b),
        "cosine": float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y))),
        "centre_shift": float(np.hypot(*(_centre(a) - _centre(b)))),
        **{f"iou_{share:g}": top_iou(a, b, share) for share in TOP_SHARES},
    }


def top_iou(a: Map, b: Map, share: float) -> float | None:
    """Intersection over union of the highest pixels; None if over 1 % tie at the threshold.

    Each set has exactly ``share`` of the pixels: those tied at the threshold are members in part,
    to equal parts, and the sums are over the smaller and the larger part of each pixel (Ruzicka).
    """
    count = max(1, round(share * a.size))
    one, other = (top_share(values.ravel(), count) for values in (a, b))
    if one is None or other is None:
        return None
    return float(np.minimum(one, other).sum() / np.maximum(one, other).sum())


def top_share(values: Float[np.ndarray, "n"], count: int) -> Float[np.ndarray, "n"] | None:
    """Membership of each pixel among the ``count`` highest; None if too many are tied.

    Pixels tied at the threshold are members to equal parts.
    """
    threshold = np.partition(values, -count)[-count]
    above, tied = values > threshold, values == threshold
    if tied.mean() > TIED and tied.sum() > count - above.sum():
        return None
    return above + tied * ((count - above.sum()) / tied.sum())


def ssim(a: Map, b: Map) -> float | None:
    """Structural similarity of the maps scaled to [0, 1], in 7 x 7 windows."""
    if min(a.shape) < 7:
        return None
    scaled = [(m - m.min()) / np.ptp(m) for m in (a.astype(np.float64), b.astype(np.float64))]
    return float(structural_similarity(*scaled, data_range=1.0))


def _pooled(values: Map) -> Float[np.ndarray, "n"]:
    shown = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))[None, None]
    size = (min(POOLED, values.shape[0]), min(POOLED, values.shape[1]))
    return torch.nn.functional.adaptive_avg_pool2d(shown, size).numpy().ravel()


def _centre(values: Map) -> Float[np.ndarray, "2"]:
    """Centre of mass of the values above the minimum, in pixels."""
    mass = values.astype(np.float64) - values.min()
    rows, columns = (np.arange(n) for n in values.shape)
    return np.array([mass.sum(1) @ rows, mass.sum(0) @ columns]) / mass.sum()


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def krippendorff(values: Float[np.ndarray, "raters items"]) -> float | None:
    """Krippendorff's alpha for complete interval data; None if it is undefined."""
    raters, items = values.shape
    expected = values.var(ddof=1) if values.size > 1 else 0.0
    if raters < 2 or items < 2 or expected == 0:
        return None
    observed = values.var(axis=0, ddof=1).mean()
    return float(1 - observed / expected)
