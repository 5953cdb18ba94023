"""The ensemble as one module, and the fastest way to run it on this machine, chosen by timing.

Ways: members one after the other; each on a CUDA stream of its own; one net of M times the channels
with grouped convolutions; ``vmap`` over stacked weights. On a GPU each is one CUDA graph.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn.utils import fusion

from models.freetickets import timing
from models.freetickets.ensemble import mixture
from models.freetickets.timing import Way
from models.nets.resnet import BasicBlock, Bottleneck, ResNet
from models.nets.wide_resnet import WideBlock, WideNet

# Convolutions and the norms right after them; in a wide net the other norms follow a sum.
PAIRS: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
    ResNet: (("stem", "stem_norm"),),
    BasicBlock: (("conv1", "norm1"), ("conv2", "norm2")),
    Bottleneck: (("conv1", "norm1"), ("conv2", "norm2"), ("conv3", "norm3")),
    WideBlock: (("conv1", "norm2"),),
    nn.Sequential: (("0", "1"),),  # a projection with its norm
}


class Ensemble(nn.Module):
    """Members as sub-modules: (log of the mean probability, log-probabilities of the members)."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(
        self, x: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b classes"], Float[Tensor, "members b classes"]]:
        logs = torch.stack([net(x).float().log_softmax(1) for net in self.members])
        return mixture(logs).float(), logs


def fold(net: nn.Module) -> nn.Module:
    """A copy in eval mode whose norms right after a convolution are part of it.

    Nets of libraries stay as they are: only their code tells which norm follows which convolution.
    """
    net = copy.deepcopy(net).eval()
    if not is_own(net):
        return net
    for module in list(net.modules()):
        for conv_name, norm_name in PAIRS.get(type(module), ()):
            conv, norm = getattr(module, conv_name, None), getattr(module, norm_name, None)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, conv_name, fusion.fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return net


def is_own(net: nn.Module) -> bool:
    """Whether the project made the net, so that its modules are known."""
    return isinstance(net, ResNet | WideNet)


class GroupedLinear(nn.Module):
    """M linear layers, each on its own part of the features: [b, M f] to [b, M classes]."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, x: Float[Tensor, "b features"]) -> Float[Tensor, "b classes"]:
        parts = x.unflatten(1, (len(self.weight), -1)).transpose(0, 1)
        return torch.baddbmm(self.bias[:, None], parts, self.weight.mT).transpose(0, 1).flatten(1)


def grouped(nets: Sequence[nn.Module]) -> nn.Module:
    """One net of M times the channels that computes all members side by side, in eval mode.

    Takes the images repeated M times over the channels; gives logits [b, M classes].
    """
    whole = copy.deepcopy(nets[0]).eval()
    for name, module in list(whole.named_modules()):
        same = [net.get_submodule(name) for net in nets]
        if isinstance(module, nn.Conv2d):
            _replace(whole, name, _grouped_conv(cast("list[nn.Conv2d]", same)))
        elif isinstance(module, nn.BatchNorm2d):
            _replace(whole, name, _joined_norm(cast("list[nn.BatchNorm2d]", same)))
        elif isinstance(module, nn.Linear):
            _replace(whole, name, GroupedLinear(cast("list[nn.Linear]", same)))
    if _is_nhwc(nets[0]):
        whole.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]  # a torch gap
    return whole


def _is_nhwc(net: nn.Module) -> bool:
    return all(
        module.weight.is_contiguous(memory_format=torch.channels_last)
        for module in net.modules()
        if isinstance(module, nn.Conv2d)
    )


def _replace(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(net.get_submodule(parent), child, module)


@torch.no_grad()
def _grouped_conv(convs: list[nn.Conv2d]) -> nn.Conv2d:
    m, one = len(convs), convs[0]
    joined = nn.Conv2d(
        one.in_channels * m,
        one.out_channels * m,
        cast("tuple[int, int]", one.kernel_size),
        cast("tuple[int, int]", one.stride),
        cast("tuple[int, int]", one.padding),
        groups=m,
        bias=one.bias is not None,
    ).to(one.weight)
    joined.weight.copy_(torch.cat([conv.weight for conv in convs]))
    if joined.bias is not None:
        joined.bias.copy_(torch.cat([cast("Tensor", conv.bias) for conv in convs]))
    return joined


@torch.no_grad()
def _joined_norm(norms: list[nn.BatchNorm2d]) -> nn.BatchNorm2d:
    joined = nn.BatchNorm2d(norms[0].num_features * len(norms), norms[0].eps).eval()
    joined.to(norms[0].weight.device)
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(joined, name).copy_(torch.cat([getattr(norm, name) for norm in norms]))
    return joined


def ways(nets: Sequence[nn.Module]) -> dict[str, Way]:
    """Ways from images to the logits [members, b, classes] of all members; nets in eval mode."""
    by_name: dict[str, Way] = {"sequential": lambda x: torch.stack([net(x) for net in nets])}
    if is_own(nets[0]):
        whole, m = grouped(nets), len(nets)
        # cat keeps NHWC, which repeat would undo
        by_name["grouped"] = lambda x: (
            whole(torch.cat([x] * m, 1)).unflatten(1, (m, -1)).transpose(0, 1)
        )
    by_name["vmap"] = _vmapped(nets)
    if next(nets[0].parameters()).is_cuda:
        by_name["streams"] = _streamed(nets)
    return by_name


def _vmapped(nets: Sequence[nn.Module]) -> Way:
    """In NCHW, whatever the nets are in: under vmap torch cannot ask for another order."""
    plain = [copy.deepcopy(net).to(memory_format=torch.contiguous_format) for net in nets]  # ty: ignore[no-matching-overload]  # a torch gap
    parameters, buffers = stack_module_state(plain)
    skeleton = copy.deepcopy(plain[0]).to("meta")

    def one(weights: dict[str, Tensor], state: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(skeleton, (weights, state), (x,))

    return lambda x: torch.vmap(one, (0, 0, None))(parameters, buffers, x.contiguous())


def _streamed(nets: Sequence[nn.Module]) -> Way:
    streams = [torch.cuda.Stream() for _ in nets]

    def run(x: Tensor) -> Tensor:
        present, parts = torch.cuda.current_stream(), []
        for net, stream in zip(nets, streams, strict=True):
            stream.wait_stream(present)
            with torch.cuda.stream(stream):
                parts.append(net(x))
        for stream in streams:
            present.wait_stream(stream)
        return torch.stack(parts)

    return run


class Choice(NamedTuple):
    """The fastest way of those that gave the same answer.

    Attributes:
        name: of the way.
        run: images of the timed shape to logits [members, b, classes].
        milliseconds: of every way that was timed.
        left_out: why the others were not.
    """

    name: str
    run: Way
    milliseconds: dict[str, float]
    left_out: dict[str, str]


@torch.inference_mode()
def fastest(nets: Sequence[nn.Module], x: Float[Tensor, "b c h w"], rounds: int = 20) -> Choice:
    """Time every way on images of this shape; a way whose answer differs is left out.

    Args:
        nets: members in eval mode on the device of ``x``; folded ones run faster.
        x: normalised images.
        rounds: calls of each way, interleaved; the median counts.
    """
    every = ways(nets)
    expected = every["sequential"](x)
    exact = x.dtype == torch.float32 and not x.is_cuda  # else TF32 or a half format
    tolerance = (1e-4 if exact else 3e-2) * float(expected.abs().max())
    ready: dict[str, Way] = {}
    left_out = {} if is_own(nets[0]) else {"grouped": "made for nets of the project alone"}
    for name, way in every.items():
        try:
            run = timing.recorded(way, x)
            gap = float((run(x) - expected).abs().max())
        except Exception as error:  # what torch or a net cannot do under vmap or within a graph
            left_out[name] = f"refused: {str(error).splitlines()[0]}"
            continue
        if gap <= tolerance:
            ready[name] = run
        else:
            left_out[name] = f"its logits differ by {gap:.2g}"
    ms = timing.medians(ready, x, rounds)
    best = min(ms, key=lambda name: ms[name])
    return Choice(best, ready[best], ms, left_out)
