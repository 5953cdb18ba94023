"""How near a coarse flood is to the fine one."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

THRESHOLDS_M = (0.05, 0.1, 0.3, 0.5)
FAR_M = 0.5


def pooled(depth: Float[Tensor, "ny nx"], factor: int) -> Float[Tensor, "nyc nxc"]:
    """Mean depth of the fine cells that a coarse cell covers; whole cells keep the volume."""
    ny, nx = depth.shape
    beyond = (0, -nx % factor, 0, -ny % factor)
    wide, there = (pad(x[None], beyond) for x in (depth, torch.ones_like(depth)))
    return (avg_pool2d(wide, factor) / avg_pool2d(there, factor))[0]


def csi(said: np.ndarray, truth: np.ndarray, wet_m: float) -> float:
    """Critical success index: hits / (hits + misses + false alarms); 1 where all is dry."""
    a, b = said > wet_m, truth > wet_m
    either = int((a | b).sum())
    return float((a & b).sum() / either) if either else 1.0


def errors(said: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Figures of a coarse depth against the pooled fine one, both in m on the same grid."""
    gap = said.astype(np.float64) - truth
    size = np.abs(gap)
    found = {
        "mae_m": float(size.mean()),
        "mse_m2": float((gap**2).mean()),
        "huber": float(np.where(size < 1, gap**2 / 2, size - 0.5).mean()),
        "far_share": float((size > FAR_M).mean()),
        "volume_error": float(gap.sum() / max(truth.sum(dtype=np.float64), 1e-9)),
        "least_depth_m": float(said.min()),
    }
    marks = {f"csi_{wet_m:g}".replace("0.", "0"): csi(said, truth, wet_m) for wet_m in THRESHOLDS_M}
    return found | marks
