"""All that a training with cheap steps needs, decided before its first step."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from models.core import checkpoint, device, ranks
from models.core.errors import SpecError
from models.core.run import Run
from models.data import images
from models.data.images import ImageData
from models.dynamic_downsampling import cost, schedule
from models.dynamic_downsampling.cheap import (
    CheapLayer,
    LayerTimes,
    plan_layers,
    shrink,
    time_layers,
)
from models.dynamic_downsampling.cheap_mode import CheapMode
from models.dynamic_downsampling.norms import NormMatcher
from models.dynamic_downsampling.spec import Downsampled
from models.nets.layers import evaluate, macs_of
from models.nets.spec import ResidualNet
from models.supervised.initial import in_safe_order, initial_net
from models.supervised.steps import Batch, Mode


@dataclass(frozen=True)
class Setup:
    """A net that can take cheap steps, its data, and the decision of every step.

    Attributes:
        spec: of the job.
        data: on the device.
        device: ``cpu`` or ``cuda``.
        net: the plain one.
        mode: makes its passes cheap.
        layers: what cheap steps do with each convolution.
        matcher: scales gradients with ``match_norm``, else None.
        sizes: height and width of cheap images in pixels, one a scale.
        decisions: 0 for each full step, 1 + index of its size for each cheap one.
        fresh: tensors of the classifier that do not come from the weights of the spec.
    """

    spec: Downsampled
    data: ImageData
    device: str
    net: nn.Module
    mode: CheapMode
    layers: list[CheapLayer]
    matcher: NormMatcher | None
    sizes: list[tuple[int, int]]
    decisions: bytes
    fresh: list[str] = field(default_factory=list)

    @cached_property
    def first_images(self) -> UInt8[Tensor, "b h w c"]:
        """The first training images, as many as a batch; decoded once where they are streamed."""
        return self.data.train[: self.spec.batch(len(self.data.train))]

    def small(self, x: Tensor, step: int | None = None) -> Tensor:
        """Images of a cheap step, without a step those of the first size; ``crop`` is by step.

        ``x`` [b, c, h, w] becomes [b, c, h2, w2] of that size.
        """
        size = self.sizes[0] if step is None else self.sizes[self.decisions[step] - 1]
        return shrink(x, size, self.spec.downsample.input_resample, self.spec.seed, step or 0)

    def decoded_size(self, step: int) -> tuple[int, int] | None:
        """Size at which the images of a step may be decoded: by areas, a small one is enough."""
        decision = self.decisions[step]
        by_area = self.spec.downsample.input_resample == "area"
        return self.sizes[decision - 1] if decision and by_area else None

    def cheap_modes(self) -> list[Mode]:
        """Mode of the cheap steps of each size."""
        down = self.spec.downsample
        factor = 1.0 if down.cheap_lr_scale == "match_norm" else down.cheap_lr_scale
        k = down.cheap_batch_multiplier
        names = [f"cheap {height} x {width}" for height, width in self.sizes]
        return [
            Mode(name if len(names) > 1 else "cheap", factor * k, down.wd_on_cheap, k)
            for name in names
        ]

    def costs(self) -> list[cost.StepCosts]:
        """Operations by scale of cheap images, layers that timing left full included."""
        spec, data, down = self.spec, self.data, self.spec.downsample
        if isinstance(spec.model, ResidualNet):
            shape, slow = (data.channels, *data.size), frozenset(self.slow_layers())
            count = len(data.classes)
            return [cost.step_costs(spec.model, down, shape, count, x, slow) for x in down.scales]
        full = macs_of(self.net, data.channels, data.size)
        with self.mode.cheap():
            return [
                cost.StepCosts(full, macs_of(self.net, data.channels, size)) for size in self.sizes
            ]

    def slow_layers(self) -> list[str]:
        """Layers left full because pooling them was timed and took longer."""
        return [layer.name for layer in self.layers if layer.reason == SLOWER]

    def extras(self) -> dict[str, Tensor]:
        """Tensors of the method that a checkpoint keeps beside net and optimizer.

        Running norms [parameters] and second statistics [c], as far as the spec asks for them.
        """
        extras = {} if self.matcher is None else self.matcher.tensors()
        return extras | {f"norm.{name}": x for name, x in self.mode.statistics().items()}


SLOWER = "slower pooled, when timed"


def prepare(spec: Downsampled, data: ImageData, run: Run) -> Setup:
    """Build the net, see what cheap steps do with its layers, and decide every step.

    Raises:
        SpecError: if data or net cannot be downsampled as asked.
    """
    spec.check_sizes(*data.size)
    spec.check_epoch(len(data.train))
    down = spec.downsample
    per_epoch, total = spec.steps(len(data.train))
    sizes = [cost.cheap_size(*data.size, scale, down.size_multiple) for scale in down.scales]
    net, fresh = initial_net(spec, data, run)
    spec = in_safe_order(spec, net, data, run)
    poolings, layers = plan_layers(net, down, data.channels, data.size)
    mode = CheapMode(net, poolings, down.bn_mode)
    matcher = NormMatcher(net) if down.cheap_lr_scale == "match_norm" else None
    decisions = schedule.decide(down, total, per_epoch, spec.seed)
    setup = Setup(spec, data, run.device, net, mode, layers, matcher, sizes, decisions, fresh)
    for index in sorted(set(decisions) - {0}):
        _dry_run(setup, sizes[index - 1])
    if down.kernel_layers == "auto":
        leave_full(setup, _slow_layers(setup, run))
    return setup


def _dry_run(setup: Setup, size: tuple[int, int]) -> None:
    """Run one cheap pass in eval mode, to refuse nets that accept one size only.

    Raises:
        SpecError: naming net and layer.
    """
    try:
        with setup.mode.cheap():
            evaluate(setup.net, setup.data.channels, size)
    except SpecError as error:
        raise SpecError(
            f"{setup.spec.model.name} takes no cheap steps: {error}",
            hint="use input_scale 1, another images.image_size, or a net that takes any size",
            pointer="/downsample/input_scale",
        ) from error


def first_batch(setup: Setup) -> Batch:
    """The first training images as they are, normalised, and their labels."""
    data, pixels = setup.data, setup.first_images
    layout = torch.channels_last if setup.spec.channels_last else torch.contiguous_format
    x = images.normalise(pixels, data.mean, data.std).contiguous(memory_format=layout)
    return Batch(x, data.train_labels[: len(pixels)])


def _slow_layers(setup: Setup, run: Run) -> list[str]:
    """Timed once a job, by the first rank; a resumed run reads the answer from its checkpoint."""
    if run.resume is not None:
        return checkpoint.read(run.resume)[1]["notes"]["slow_layers"]
    return slower_pooled(layer_times(setup))


def slower_pooled(times: dict[str, LayerTimes]) -> list[str]:
    """Names of the layers that take longer pooled, as the first rank timed them."""
    flags = ranks.broadcast_flags(*(layer.is_slower_pooled for layer in times.values()))
    return [name for name, is_slow in zip(times, flags, strict=True) if is_slow]


def layer_times(setup: Setup) -> dict[str, LayerTimes]:
    """Times of the pooled convolutions on the first batch at the cheap size, by name."""
    with device.autocast(setup.spec.precision, setup.device):
        return time_layers(setup.net, setup.small(first_batch(setup).images), setup.mode)


def leave_full(setup: Setup, slow: list[str]) -> None:
    """Keep the filters of these layers whole in cheap steps, since pooling them takes longer."""
    for index, layer in enumerate(setup.layers):
        if layer.name in slow and setup.mode.poolings.pop(f"{layer.name}.weight", None):
            setup.layers[index] = layer._replace(cheap_kernel=layer.kernel, reason=SLOWER)
