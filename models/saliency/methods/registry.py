"""Which function computes the map of which method of a spec."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from models.saliency.methods import channels, controls, gradients, optimised
from models.saliency.methods.baselines import Replacement
from models.saliency.methods.case import Case, ScoreRange
from models.saliency.methods.occlusion import occlusion, score_drops
from models.saliency.methods.partition import partition_shap
from models.saliency.methods.rise import rise
from models.saliency.methods.sobol import sobol
from models.saliency.methods.surrogates import ablation, kernel_shap, lime, shapley
from models.saliency.spec import masks, methods
from models.saliency.spec.channels import AblationCam, ScoreCam
from models.saliency.spec.gradients import (
    Extremal,
    GradCam,
    Gradient,
    IntegratedGradients,
    Meaningful,
    SmoothGrad,
)
from models.saliency.spec.partition import PartitionShap
from models.saliency.spec.sobol import Sobol

METHODS: dict[type, Callable[..., Any]] = {
    masks.Occlusion: occlusion,
    masks.OcclusionRaw: score_drops,
    masks.FeatureAblation: ablation,
    masks.Rise: rise,
    masks.Lime: lime,
    masks.KernelShap: kernel_shap,
    masks.ShapleyExact: shapley,
    PartitionShap: partition_shap,
    Sobol: sobol,
    ScoreCam: channels.score_cam,
    AblationCam: channels.ablation_cam,
    Meaningful: optimised.meaningful,
    Extremal: optimised.extremal,
    Gradient: gradients.gradient,
    IntegratedGradients: gradients.integrated,
    SmoothGrad: gradients.smooth,
    GradCam: gradients.gradcam,
    methods.Control: controls.control,
}


def compute_map(
    part: methods.Method, case: Case, b: Replacement
) -> Float[Tensor, "k rows columns"]:
    """Compute the maps of one method with baseline ``b``, float64.

    Returns:
        For each of the k classes a value per pixel, or per window for ``occlusion_raw``; 0 where
        no score of the class moved: masks alone would leave a pattern of their own.

    Raises:
        SpecError: if the method cannot be used with this net or image.
    """
    case.score_range = ScoreRange()
    maps = METHODS[type(part)](part, case, b)
    constant = case.score_range.constant(case.full, case.scorer.dtype)
    return torch.where(constant[:, None, None], 0.0, maps)
