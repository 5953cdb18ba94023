"""Score-CAM and Ablation-CAM: feature maps of a layer, weighted by what the score does."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from models.saliency.methods.case import Case
from models.saliency.methods.layers import layer_of
from models.saliency.methods.rise import blend
from models.saliency.spec.channels import AblationCam, ScoreCam


def score_cam(part: ScoreCam, case: Case, b: Float[Tensor, "c h w"]) -> Float[Tensor, "k h w"]:
    """Positive part of the sum of feature maps, weighted by a softmax of score rises (eq. 20).

    A feature map, enlarged and scaled to [0, 1], is the mask of the image; a constant one hides it.

    Raises:
        SpecError: if there is no such layer, or its output is no feature map.
    """
    maps = _feature_maps(part, case)[0]
    size = tuple(case.x.shape[1:])

    def masked(index: Int64[Tensor, "m"]) -> Float[Tensor, "m c h w"]:
        large = F.interpolate(maps[index][:, None], size, mode="bilinear")[:, 0]
        low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
        spread = high - low
        mask = torch.where(spread > 0, (large - low) / spread.clamp(min=1e-300), 0.0)
        return blend(mask, case.x, b)

    rises = case.scores(masked, len(maps)) - case.score(b[None])
    return _combined(rises.softmax(0), maps, size)


def ablation_cam(part: AblationCam, case: Case, _b: Float[Tensor, "c h w"]) -> Tensor:
    """Positive part of the sum of feature maps, weighted by the fall without each (eq. 21).

    Returns:
        Maps [k, h, w]. The fall is relative to the size of the score; to 1 where that is 0.

    Raises:
        SpecError: if there is no such layer, or its output is no feature map.
    """
    maps, channels = _feature_maps(part, case)
    layer, without = layer_of(part, case), []
    for some in channels.split(case.chunk):
        images = case.x.expand(len(some), -1, -1, -1).contiguous()
        with _silenced(layer, some), torch.inference_mode():
            outputs = case.scorer.net(images.to(memory_format=torch.channels_last))
        case.scorer.tick(len(some))
        scores = case.scorer.scores(outputs.double())[:, case.targets]
        without.append(case.score_range.add(scores))
    # The plain net, as above, so that rounding of the plan is no fall.
    with torch.inference_mode():
        full = case.scorer.scores(case.scorer.net(case.x[None]).double())[0, case.targets]
    case.scorer.tick(1)
    size = torch.where(full == 0, 1.0, full.abs())
    return _combined((full - torch.cat(without)) / size, maps, tuple(case.x.shape[1:]))


def _combined(
    weights: Float[Tensor, "l k"], maps: Float[Tensor, "l i j"], size: tuple[int, ...]
) -> Float[Tensor, "k h w"]:
    total = torch.einsum("lk,lij->kij", weights, maps).clamp(min=0)
    return F.interpolate(total[:, None], size, mode="bilinear")[:, 0]


def _feature_maps(
    part: ScoreCam | AblationCam, case: Case
) -> tuple[Float[Tensor, "l i j"], Int64[Tensor, "l"]]:
    """The feature maps of the image that are used, float64, and their channels.

    Their positive part: where a net applies its activation as a function, the last layer is before
    it, and a sum of negative maps would be zero throughout.
    """
    kept: list[Tensor] = []
    hook = layer_of(part, case).register_forward_hook(lambda _m, _i, output: kept.append(output))
    try:
        with torch.inference_mode():
            case.scorer.net(case.x[None])
    finally:
        hook.remove()
    case.scorer.tick(1)
    maps = kept[0][0].double().clamp(min=0)
    order = maps.mean((1, 2)).argsort(descending=True, stable=True)[: part.channels]
    return maps[order], order


class _silenced:  # noqa: N801  # used as a function
    """Context manager in which a layer gives 0 in one channel of each row.

    Args:
        layer: the module.
        channels: of each row of the batch.
    """

    def __init__(self, layer: nn.Module, channels: Int64[Tensor, "n"]) -> None:
        self._layer, self._channels = layer, channels

    def __enter__(self) -> None:
        def silence(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            output = output.clone()
            output[torch.arange(len(output), device=output.device), self._channels] = 0
            return output

        self._hook = self._layer.register_forward_hook(silence)

    def __exit__(self, *_: object) -> None:
        self._hook.remove()
