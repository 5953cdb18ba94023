"""From a method's part of a spec to its map: one function for all of them."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from models.saliency import controls, gradients, methods, optimised, spec_gradients, spec_masks
from models.saliency.baselines import Replacement
from models.saliency.case import Case
from models.saliency.coalitions import ablation, kernel_shap, lime, shapley
from models.saliency.occlusion import drops, occlusion
from models.saliency.rise import rise

MAKERS: dict[type, Callable[..., Any]] = {
    spec_masks.Occlusion: occlusion,
    spec_masks.OcclusionRaw: drops,
    spec_masks.FeatureAblation: ablation,
    spec_masks.Rise: rise,
    spec_masks.Lime: lime,
    spec_masks.KernelShap: kernel_shap,
    spec_masks.ShapleyExact: shapley,
    spec_gradients.Meaningful: optimised.meaningful,
    spec_gradients.Extremal: optimised.extremal,
    spec_gradients.Gradient: gradients.gradient,
    spec_gradients.IntegratedGradients: gradients.integrated,
    spec_gradients.SmoothGrad: gradients.smooth,
    spec_gradients.GradCam: gradients.gradcam,
    methods.Control: controls.control,
}


def make(part: methods.Method, case: Case, b: Replacement) -> Float[Tensor, "k rows columns"]:
    """The maps of one method with baseline ``b``, in float64: a value a pixel, or a window."""
    return MAKERS[type(part)](part, case, b)
