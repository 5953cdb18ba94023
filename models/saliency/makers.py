"""From a method's part of a spec to its map: one function for all of them."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from models.saliency import controls, gradients, methods, optimised
from models.saliency.case import Case
from models.saliency.coalitions import ablation, kernel_shap, lime, shapley
from models.saliency.occlusion import drops, occlusion
from models.saliency.rise import rise

MAKERS: dict[type, Callable[..., Any]] = {
    methods.Occlusion: occlusion,
    methods.OcclusionRaw: drops,
    methods.FeatureAblation: ablation,
    methods.Rise: rise,
    methods.Lime: lime,
    methods.KernelShap: kernel_shap,
    methods.ShapleyExact: shapley,
    methods.Meaningful: optimised.meaningful,
    methods.Extremal: optimised.extremal,
    methods.Gradient: gradients.gradient,
    methods.IntegratedGradients: gradients.integrated,
    methods.SmoothGrad: gradients.smooth,
    methods.GradCam: gradients.gradcam,
    methods.Control: controls.control,
}


def make(
    part: methods.Method, case: Case, b: Float[Tensor, "c h w"]
) -> Float[Tensor, "k rows columns"]:
    """The maps of one method with baseline ``b``, in float64: a value a pixel, or a window."""
    return MAKERS[type(part)](part, case, b)
