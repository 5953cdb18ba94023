"""Scores of samples, of peers on the same data, and the floors beside them."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from models.core.device import generator
from models.lcw import distance, mixture, objectives, scores
from models.lcw.features import Features
from models.lcw.nets import in_parts
from models.lcw.setup import Data, encode, pixels
from models.lcw.spec import LcwTrain
from models.lcw.stages import StagedTraining, noise

LATENTS = 4096  # of the distance between encoded and generated latents, at most


def to_bytes(images: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n h w c"]:
    """Images in [0, 1] as bytes, truncated as in the authors' protocol."""
    return (images.clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def decode(decoder: torch.nn.Module, latents: Float[Tensor, "n d"]) -> UInt8[Tensor, "n h w c"]:
    """Latents to bytes, in parts."""
    return torch.cat([to_bytes(in_parts(decoder, part)) for part in latents.split(1024)])


def evaluate(
    training: StagedTraining, data: Data, features: Features
) -> tuple[dict[str, Any], UInt8[Tensor, "n h w c"]]:
    """All figures of the method, its peers and the floors, and the samples of the method.

    Raises:
        StoppedError: if a stop was requested.
    """
    spec, run = training.spec, training.run
    real = features.of(data.train)
    score = partial(_score, features=features, real=real, data=data, spec=spec)
    decoded = decode(training.nets["decoder"], encode(training.nets["encoder"], data.test))
    figures: dict[str, Any] = {
        "features": features.about,
        "num_samples": spec.evaluation.num_samples,
        "seed": spec.seed,
        "reference": {"set": "training images", "count": len(data.train)},
        "floor": {"set": "test images", **score(data.test)},
        # what a generator that matched the latents would reach
        "reconstructed": {"set": "test images through the autoencoder", **score(decoded)},
        "scores": {},
    }
    kept = data.train[:0]
    for name, latents, decoder in _sources(training, data):
        run.check_stop()
        made = decode(decoder, latents)
        kept = made if name == "lcw" else kept
        values = score(made)
        # The floor has fewer images; the distance depends on the number.
        few = features.of(made[: len(data.test)])
        values["frechet_at_floor_count"] = scores.frechet(few, real)
        figures["scores"][name] = values
        run.progress(len(figures["scores"]), len(_names(spec)), phase="scores", unit="generator")
    figures |= {
        "reconstruction": _reconstruction(training, data),
        "latent": _latent(training, data),
    }
    figures["memorisation"] = _memorisation(kept, data)
    return figures, kept


def _names(spec: LcwTrain) -> list[str]:
    return ["lcw", *spec.evaluation.baselines]


def _sources(training: StagedTraining, data: Data) -> Iterator[tuple[str, Tensor, torch.nn.Module]]:
    """Name, latents to decode, and the decoder of each generator."""
    spec, nets, run = training.spec, training.nets, training.run
    count, dim = spec.evaluation.num_samples, spec.arch.latent_dim
    for name in _names(spec):
        if name == "lcw":
            draws = noise(spec.seed, "samples", 0, (count, spec.arch.inputs), run.device)
            yield name, in_parts(nets["generator"], draws), nets["decoder"]
            continue
        normal = noise(spec.seed, "samples", 0, (count, dim), run.device)
        if name == "gmm10":
            yield name, _mixed(training, data, count), nets["decoder"]
        elif name == "normal":
            yield name, normal, nets["decoder"]
        else:
            yield name, normal, nets[f"{name}_decoder"]


def _mixed(training: StagedTraining, data: Data, count: int) -> Float[Tensor, "m d"]:
    """Samples of a mixture of 10 Gaussians fitted to the latents of the training images."""
    encoded, seed = encode(training.nets["encoder"], data.train), training.spec.seed
    fitted = mixture.fit(encoded, min(10, len(encoded)), generator(seed, "mixture", 0))
    return mixture.draw(fitted, count, generator(seed, "mixture samples", 0)).float()


def _score(
    images: UInt8[Tensor, "n h w c"],
    *,
    features: Features,
    real: Float[Tensor, "m f"],
    data: Data,
    spec: LcwTrain,
) -> dict[str, float | int]:
    """Scores of some images against the training images."""
    made = features.of(images)
    values: dict[str, float | int] = {"count": len(made), "frechet": scores.frechet(made, real)}
    if spec.evaluation.kid:
        values["kid"], values["kid_spread"] = scores.kid(made, real, spec.seed)
    some = slice(0, 10_000)  # of the pairwise distances
    values |= scores.prdc(real[some], made[some], spec.evaluation.prdc_k)
    if features.classify is not None:
        values |= scores.modes(features.classify(images), data.labels, len(data.classes))
    return values


def _reconstruction(training: StagedTraining, data: Data) -> float:
    """Mean over test images of the sum of squared errors, values in [0, 1]."""
    decoder, total = training.nets["decoder"], 0.0
    for part in data.test.split(1024):
        images = pixels(part)
        decoded = in_parts(decoder, in_parts(training.nets["encoder"], images))
        total += objectives.squared_error(images, decoded).item() * len(part)
    return total / len(data.test)


def _latent(training: StagedTraining, data: Data) -> dict[str, float]:
    """How the latents of test images lie, to N(0, I) and to generated ones."""
    spec = training.spec
    z = encode(training.nets["encoder"], data.test[:LATENTS])
    shape = (len(z), spec.arch.inputs)
    made = in_parts(
        training.nets["generator"], noise(spec.seed, "latents", 0, shape, training.run.device)
    )
    gamma = max(distance.silverman(z.std().item(), len(z)), 1e-12)
    return {
        "std": z.std().item(),
        "dead_dimensions": int((z.std(0) < 1e-3 * z.std()).sum()),
        "cw_to_normal": distance.normality(z).item(),
        "cw_to_generated": distance.two_sample(made, z, gamma, "exact").item(),
        **objectives.mardia(z),
    }


def _memorisation(made: Tensor, data: Data) -> dict[str, float]:
    """Distances in pixels from samples, and from test images, to the nearest training image."""
    some, train = 1000, pixels(data.train).flatten(1)
    gaps = {
        name: scores.nearest(pixels(images[:some]).flatten(1), train)[1].median().item()
        for name, images in (("samples", made), ("test_images", data.test))
    }
    return {f"median_nearest_{name}": gap for name, gap in gaps.items()}
