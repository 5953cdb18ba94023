"""Gradient-based maps, as a comparison for perturbation methods."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from models.saliency import philox
from models.saliency.methods.case import Case
from models.saliency.methods.layers import layer_of
from models.saliency.spec.gradients import GradCam, Gradient, IntegratedGradients, SmoothGrad


def derivatives(case: Case, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "k n c h w"]:
    """Gradient of each class's score with respect to each image, in the image's dtype."""
    by_class = []
    for target in case.targets.tolist():
        chunks = []
        for part in images.split(case.chunk):
            with torch.inference_mode(mode=False), torch.enable_grad():
                x = part.clone().requires_grad_(True)
                score = case.scorer.scores(case.scorer.net(x).double())[:, target]
                (gradient,) = torch.autograd.grad(score.sum(), x)
            case.scorer.tick(len(part))
            chunks.append(gradient)
        by_class.append(torch.cat(chunks))
    return torch.stack(by_class)


def gradient(part: Gradient, case: Case, b: Float[Tensor, "c h w"]) -> Float[Tensor, "k h w"]:
    """Maximum of |gradient| over the channels, or the sum of gradient times (x - b)."""
    derivative = derivatives(case, case.x[None])[:, 0].double()
    if part.id == "gradient":
        return derivative.abs().amax(1)
    return (derivative * (case.x - b).double()).sum(1)


def integrated(
    part: IntegratedGradients, case: Case, b: Float[Tensor, "c h w"]
) -> Float[Tensor, "k h w"]:
    """Integrated gradients (Sundararajan et al. 2017, eq. 1) by the midpoint rule.

    Sums to ``f(x) - f(b)`` up to the error of the rule; exactly for a linear score.
    """
    t = (torch.arange(part.steps, device=b.device, dtype=b.dtype) + 0.5) / part.steps
    total = torch.zeros(len(case.targets), *b.shape, dtype=torch.float64, device=b.device)
    for points in t.split(case.chunk):
        path = torch.lerp(b, case.x, points[:, None, None, None])
        total += derivatives(case, path).double().sum(1)
    return (total / part.steps * (case.x - b).double()).sum(1)


def smooth(part: SmoothGrad, case: Case, _b: Float[Tensor, "c h w"]) -> Float[Tensor, "k h w"]:
    """Mean gradient over noisy images (Smilkov et al. 2017), maximum of its size over channels."""
    x = case.x
    sigma = part.sigma * (x.max() - x.min()).item()
    total = torch.zeros(len(case.targets), *x.shape, dtype=torch.float64, device=x.device)
    for index in torch.arange(part.samples, device=x.device).split(case.chunk):
        noise = philox.normal((case.seed, 2), philox.NOISE, index, x.numel())
        total += derivatives(case, x + sigma * noise.view(-1, *x.shape).to(x)).double().sum(1)
    return (total / part.samples).abs().amax(1)


def gradcam(part: GradCam, case: Case, _b: Float[Tensor, "c h w"]) -> Float[Tensor, "k h w"]:
    """Feature maps of a layer weighted by their mean gradient; positive part, upsampled bilinearly.

    Raises:
        SpecError: if there is no such layer, or its output is no feature map.
    """
    layer = layer_of(part, case)
    class_maps = []
    for target in case.targets.tolist():
        with torch.inference_mode(mode=False), torch.enable_grad(), _recorded(layer) as maps:
            score = case.scorer.scores(case.scorer.net(case.x[None].clone()).double())[0, target]
            (slope,) = torch.autograd.grad(score, maps[0])
            weighted = (slope.mean((2, 3), keepdim=True) * maps[0]).sum(1, keepdim=True)
        case.scorer.tick(1)
        size = tuple(case.x.shape[1:])
        large = F.interpolate(weighted.detach().clamp(min=0), size, mode="bilinear")
        class_maps.append(large[0, 0].double())
    return torch.stack(class_maps)


class _recorded:  # noqa: N801  # used as a function
    """Context manager that records the outputs of a module."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.outputs = module, list[Tensor]()

    def __enter__(self) -> list[Tensor]:
        self.hook = self.module.register_forward_hook(
            lambda _module, _inputs, output: self._keep(output)
        )
        return self.outputs

    def _keep(self, output: Tensor) -> Tensor:
        output = output if output.requires_grad else output.requires_grad_(True)
        self.outputs.append(output)
        return output

    def __exit__(self, *_: object) -> None:
        self.hook.remove()
