"""Errors of a coarse flood against the pooled fine one."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

THRESHOLDS_M = (0.05, 0.1, 0.3, 0.5)
FAR_M = 0.5
WET_M = 0.1


def pooled(depth: Float[Tensor, "ny nx"], factor: int) -> Float[Tensor, "nyc nxc"]:
    """Mean depth of the fine cells in each coarse cell; conserves volume where a cell is full."""
    ny, nx = depth.shape
    beyond = (0, -nx % factor, 0, -ny % factor)
    wide, there = (pad(x[None], beyond) for x in (depth, torch.ones_like(depth)))
    return (avg_pool2d(wide, factor) / avg_pool2d(there, factor))[0]


def csi(
    prediction: Float[np.ndarray, "ny nx"], truth: Float[np.ndarray, "ny nx"], wet_m: float
) -> float:
    """Critical success index: hits / (hits + misses + false alarms); 1 where all is dry."""
    a, b = prediction > wet_m, truth > wet_m
    either = int((a | b).sum())
    return float((a & b).sum() / either) if either else 1.0


def errors(
    prediction: Float[np.ndarray, "ny nx"], truth: Float[np.ndarray, "ny nx"]
) -> dict[str, float]:
    """Error measures of a coarse depth against the pooled fine one, both in m on the same grid."""
    gap = prediction.astype(np.float64) - truth
    magnitude = np.abs(gap)
    figures = {
        "mae_m": float(magnitude.mean()),
        "mse_m2": float((gap**2).mean()),
        "huber": float(np.where(magnitude < 1, gap**2 / 2, magnitude - 0.5).mean()),
        "far_share": float((magnitude > FAR_M).mean()),
        "volume_error": float(gap.sum() / max(truth.sum(dtype=np.float64), 1e-9)),
        "least_depth_m": float(prediction.min()),
    }
    marks = {
        f"csi_{wet_m:g}".replace("0.", "0"): csi(prediction, truth, wet_m) for wet_m in THRESHOLDS_M
    }
    return figures | marks


def peak_errors(
    prediction: Float[np.ndarray, "ny nx"], truth: Float[np.ndarray, "ny nx"]
) -> dict[str, float]:
    """Errors of greatest depths in m on the same grid, over cells wet in either flood."""
    wet = (prediction > WET_M) | (truth > WET_M)
    gap = (prediction.astype(np.float64) - truth)[wet]
    figures = {f"peak_{name}": value for name, value in level_errors(gap).items()}
    return figures | {"peak_csi_01": csi(prediction, truth, WET_M)}


def level_errors(gap: Float[np.ndarray, "n"]) -> dict[str, float]:
    """Bias, root mean square and mean magnitude of differences in m; 0 of none."""
    some = gap if gap.size else np.zeros(1)
    rms = float(np.sqrt(np.mean(some**2)))
    return {"bias_m": float(some.mean()), "rmse_m": rms, "mae_m": float(np.abs(some).mean())}
