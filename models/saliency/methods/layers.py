"""The layer whose feature maps a method combines."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from models.core.errors import SpecError
from models.saliency.methods.case import Case
from models.saliency.spec.channels import ChannelMethod
from models.saliency.spec.gradients import GradCam


def layer_of(part: GradCam | ChannelMethod, case: Case) -> nn.Module:
    """The module that a method names, or the last one whose output has height and width.

    Args:
        part: the method of the spec.
        case: the image.

    Raises:
        SpecError: if there is no such layer, or its output is no feature map.
    """
    name, modules = part.layer, dict(case.scorer.net.named_modules())
    if name is not None and name not in modules:
        some = ", ".join(list(modules)[-8:])
        raise SpecError(f"methods: {part.id}.layer {name!r} is no part of this net; {some} are")
    with_maps = dict(_with_maps(case, modules))
    if name is None and with_maps:
        return modules[list(with_maps)[-1]]
    if name not in with_maps:
        raise SpecError(
            f"methods: {part.id}.layer {name!r} gives no maps",
            hint=f"use one of {', '.join(list(with_maps)[-8:])}",
        )
    return modules[name]


def _with_maps(case: Case, modules: dict[str, nn.Module]) -> Iterator[tuple[str, None]]:
    """Names of modules with feature maps larger than one pixel, in the order of execution."""
    order: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def seen(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and max(output.shape[2:]) > 1:
                order.append(name)

        return seen

    hooks = [module.register_forward_hook(watch(name)) for name, module in modules.items() if name]
    with torch.no_grad():
        case.scorer.net(case.x[None])
    for hook in hooks:
        hook.remove()
    yield from ((name, None) for name in order)
