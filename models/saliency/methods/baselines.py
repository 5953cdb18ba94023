"""Baselines: the values that replace removed pixels, and how neutral each baseline is."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from models.core.errors import SpecError
from models.saliency import philox
from models.saliency.methods.local_baselines import LocalBaseline
from models.saliency.net.scores import Scorer
from models.saliency.net.space import Space
from models.saliency.spec.fields import (
    LOCAL,
    Baseline,
    Blur,
    Constant,
    DatasetSamples,
    GaussianNoise,
    MapBaseline,
    Noise,
    OtherImage,
    draws,
)
from models.saliency.spec.map import PATH_POINTS

TRUNCATION = 4.0  # standard deviations of the blur's kernel on each side
PIXEL_LEVELS = {"black": 0.0, "white": 1.0, "gray": 0.5}
STILL = 1e-6  # relative change of a score below which it is rounding
NEUTRAL_FACTOR = 10  # a neutral baseline gives no class more than this many times 1 / classes

Replacement = Tensor | LocalBaseline  # a baseline image, or an object that fills regions


def replacements_of(
    part: MapBaseline, x: Float[Tensor, "c h w"], space: Space, seed: int
) -> list[Replacement]:
    """The replacements for one image: baseline images, or an object that fills regions.

    Args:
        part: the baseline of the spec.
        x: the image as the net sees it.
        space: how pixels were normalised.
        seed: of the job; a random baseline adds its own.

    Raises:
        SpecError: if the number of channels does not fit, or the net records no data mean.
    """
    if isinstance(part, LOCAL):
        return [LocalBaseline(part, x, seed)]
    return [*baseline_images(part, x, space, seed)]


def baseline_images(
    part: Baseline, x: Float[Tensor, "c h w"], space: Space, seed: int
) -> list[Float[Tensor, "c h w"]]:
    """The baseline images for one image: one, or as many as a random baseline draws.

    Args:
        part: the baseline of the spec.
        x: the image as the net sees it; the baselines have its shape, dtype and device.
        space: how pixels were normalised.
        seed: of the job; a random baseline adds its own.

    Raises:
        SpecError: if the number of channels does not fit, or the net records no data mean.
    """
    if isinstance(part, Noise | GaussianNoise):
        images = [_noise(part, x, space, seed, draw) for draw in range(draws(part))]
    elif isinstance(part, Blur):
        images = [blur(x, part.sigma)]
    elif isinstance(part, Constant):
        images = [_constant(part, x, space)]
    elif isinstance(part, DatasetSamples):
        images = _sampled(part, x, space, seed)
    elif isinstance(part, OtherImage):
        images = [space.normalise(space.others[part.image.key].to(x.device))]
    elif part.id == "channel_mean":
        images = [x.double().mean((1, 2), keepdim=True)]
    elif part.id in PIXEL_LEVELS:
        images = [space.normalise(torch.full_like(x[:, :1, :1], PIXEL_LEVELS[part.id]))]
    else:
        images = [_mean(part.id, x, space)]
    return [image.to(x).expand_as(x) for image in images]


def image_of(replacement: Replacement) -> Float[Tensor, "c h w"]:
    """The baseline on its own: the image that results when every pixel is removed."""
    return replacement.image if isinstance(replacement, LocalBaseline) else replacement


def _mean(name: str, x: Tensor, space: Space) -> Tensor:
    """Zero in the net's input space: the data's mean if the net normalises by that mean."""
    if name == "dataset_mean" and not space.recorded:
        raise SpecError(
            "baselines: 'dataset_mean' is not recorded by this net",
            hint="use 'zero', or 'constant' with the mean colour of its training data",
        )
    return torch.zeros_like(x)


def _constant(part: Constant, x: Tensor, space: Space) -> Tensor:
    if len(part.value) not in (1, len(x)):
        raise SpecError(
            f"baselines: constant has {len(part.value)} values, the net's input {len(x)} channels",
            hint=f"give one value, or {len(x)}",
        )
    value = torch.tensor(part.value, dtype=torch.float64, device=x.device)[:, None, None]
    return space.normalise(value) if part.space == "pixel" else value


def _noise(part: Noise | GaussianNoise, x: Tensor, space: Space, seed: int, draw: int) -> Tensor:
    key = (seed, part.seed)
    index = torch.tensor([draw], device=x.device)
    if isinstance(part, GaussianNoise):
        return part.sigma * philox.normal(key, philox.NOISE, index, x.numel()).view_as(x)
    if part.id == "uniform_noise":
        return space.normalise(philox.uniform(key, philox.NOISE, index, x.numel()).view_as(x))
    pixels = x[0].numel()
    order = philox.words(key, philox.NOISE, index, pixels)[0].argsort(stable=True)
    return x.flatten(1)[:, order].view_as(x)


def _sampled(part: DatasetSamples, x: Tensor, space: Space, seed: int) -> list[Tensor]:
    """Images of the pool in an order of their own for this image; the image itself is left out."""
    pool = space.samples[part.dataset, part.split]
    row = torch.zeros(1, dtype=torch.int64)
    order = philox.words((seed, part.seed), philox.NOISE, row, len(pool))[0].argsort(stable=True)
    images = (space.normalise((pool[i].float() / 255).to(x.device)).to(x) for i in order.tolist())
    return list(islice((image for image in images if not torch.equal(image, x)), part.draws))


def blur(x: Float[Tensor, "c h w"], sigma: float) -> Float[Tensor, "c h w"]:
    """Gaussian blur, separable, cut at 4 standard deviations, border pixels repeated.

    Each axis is one product with a matrix whose rows are the kernel, with the weights beyond the
    border added to the border pixel; the kernel may therefore be longer than the image.
    """
    rows, columns = (_smoothing(n, sigma, x.device) for n in x.shape[1:])
    return (rows @ x.double() @ columns.T).to(x.dtype)


def _smoothing(length: int, sigma: float, device: torch.device) -> Float[Tensor, "n n"]:
    radius = math.ceil(TRUNCATION * sigma)
    offset = torch.arange(-radius, radius + 1, device=device, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offset / sigma) ** 2)
    index = torch.arange(length, device=device)[:, None] + offset.long()
    matrix = torch.zeros(length, length, dtype=torch.float64, device=device)
    return matrix.scatter_add_(
        1, index.clamp(0, length - 1), (kernel / kernel.sum()).expand(length, -1)
    )


def baseline_impact(
    scorer: Scorer,
    x: Float[Tensor, "c h w"],
    images: list[Float[Tensor, "c h w"]],
    targets: Int64[Tensor, "k"],
    chunk: int,
    names: Sequence[str],
) -> dict[str, Any]:
    """How neutral a baseline is, without any saliency map (README, eq. 3).

    Scores the path ``b_t = (1 - t) b + t x`` at 11 points; its first point is the baseline itself.
    All numbers are means over the draws of the baseline; ``standard_error`` is that of ``score``.

    Args:
        scorer: runs the net.
        x: the image as the net sees it.
        images: the draws of the baseline.
        targets: the classes to explain.
        chunk: images per forward pass.
        names: of the classes.

    Returns:
        ``score`` and ``path`` of each target, ``max_probability``, ``neutrality`` (1 minus that),
        ``outcomes`` among which chance chooses (the classes; 2 for a label by itself),
        ``entropy`` in nats and its distance from uniform ``kl_uniform``, ``top_class`` of the
        first draw with its ``top_name``, ``top_class_changes``, the area ``path_area`` of each
        target's path, and ``moved``: whether any score changed along it. What is of probabilities
        is null for a regression.
    """
    t = torch.linspace(0, 1, PATH_POINTS, dtype=x.dtype, device=x.device)[:, None, None, None]
    outputs = []
    for b in images:
        path = (torch.lerp(b, x, part) for part in t.split(chunk))
        outputs.append(torch.cat([scorer.outputs(points) for points in path]))
    out = torch.stack(outputs)  # [draws, points, classes]
    score = scorer.scores(out.flatten(0, 1)).unflatten(0, out.shape[:2])[:, :, targets]
    return {
        "score": score[:, 0].mean(0).tolist(),
        "standard_error": _standard_error(score[:, 0]),
        **_neutrality(scorer, out, targets, names),
        "path": score.mean(0).T.tolist(),
        "path_area": torch.trapezoid(score.mean(0), dx=1 / (PATH_POINTS - 1), dim=0).tolist(),
        "moved": bool((score.amax((0, 1)) - score.amin((0, 1)) > STILL * score.abs().max()).any()),
    }


def _neutrality(
    scorer: Scorer,
    out: Float[Tensor, "draws points classes"],
    targets: Int64[Tensor, "k"],
    names: Sequence[str],
) -> dict[str, Any]:
    """What probabilities say of the baseline itself, the first point; null where there are none."""
    p, top = scorer.probabilities(out[:, 0]), int(out[0, 0].argmax())
    changes = bool(out[0, 0].argmax() != out[0, -1].argmax())
    if p is None:
        absent = ("probability", "max_probability", "neutrality", "outcomes", "entropy",
                  "kl_uniform", "top_name")  # fmt: skip
        return {**dict.fromkeys(absent), "top_class": top, "top_class_changes": changes}
    count, alone = p.shape[1], scorer.meaning.kind == "labels"
    entropy = _entropy(p, alone).mean().item()
    largest = p.max(1).values.mean().item()
    return {
        "probability": p[:, targets].mean(0).tolist(),
        "max_probability": largest,
        "neutrality": 1 - largest,
        "outcomes": 2 if alone else count,
        "entropy": entropy,
        "kl_uniform": (count * math.log(2) if alone else math.log(count)) - entropy,
        "top_class": top,
        "top_name": names[top],
        "top_class_changes": changes,
    }


def _entropy(p: Float[Tensor, "n classes"], alone: bool) -> Float[Tensor, "n"]:
    """In nats, of one choice among classes or of labels each of which may hold."""
    of_each = torch.special.entr(p) + (torch.special.entr(1 - p) if alone else 0)
    return of_each.sum(1)


def neutral_limit(outcomes: int) -> float:
    """Largest probability that a neutral baseline may give a class or label.

    Ten times chance, and for few outcomes half the way from chance to certainty.
    """
    return min(NEUTRAL_FACTOR / outcomes, (1 + 1 / outcomes) / 2)


def impact_warnings(label: str, numbers: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Codes and texts of what to say of a baseline before any map is made.

    It is not neutral, whatever class it looks like; or no score moved on the way to it.

    Args:
        label: of the baseline.
        numbers: as :func:`baseline_impact` returns them.
    """
    if not numbers["moved"]:
        yield (
            "score_does_not_move",
            f"no explained score moved on the whole way from the image to baseline {label}; maps "
            "will be zero. Check model.input (size, mean, std), or use score 'logit'",
        )
    if numbers["outcomes"] is None or numbers["max_probability"] is None:
        return
    limit = neutral_limit(numbers["outcomes"])
    if numbers["max_probability"] <= limit:
        return
    yield (
        "baseline_not_neutral",
        f"baseline {label} is not neutral: alone it gives class {numbers['top_name']!r} "
        f"probability {numbers['max_probability']:.3g}; chance is {1 / numbers['outcomes']:.2g}, "
        f"and at most {limit:.2g} counts as neutral",
    )


def _standard_error(values: Float[Tensor, "draws k"]) -> list[float] | None:
    if len(values) == 1:
        return None
    return (values.std(0) / math.sqrt(len(values))).tolist()
