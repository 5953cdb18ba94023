"""Images from a trained generator: samples, interpolations, ONNX."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.core import ranks
from models.core.device import generator
from models.core.errors import SpecError
from models.core.run import Run
from models.lcw import export, paths, pictures, view
from models.lcw.evaluate import decode
from models.lcw.nets import in_parts
from models.lcw.setup import LoadedNets, load_nets
from models.lcw.spec import Bundled, LcwSample

CHUNK = 512  # images between two looks for a stop
BUNDLED = Path(__file__).with_name("digits.safetensors")


def sample(spec: LcwSample, run: Run) -> None:
    """Draw images and leave what the spec asks for; the same seed gives the same images.

    Raises:
        DataError: if the artifact is no generator of lcw.train.
        SpecError: if more than one device is used.
        StoppedError: if a stop was requested.
    """
    if ranks.world_size() > 1:
        raise SpecError("lcw.sample runs on one device", hint="ask for one GPU, or none")
    path = BUNDLED if isinstance(spec.model, Bundled) else run.input(spec.model)
    loaded, about = load_nets(path, run.device)
    images = _draw(spec, loaded, run)
    title = f"{min(64, spec.count)} of {spec.count} samples, seed {spec.seed}, not selected"
    pictures.samples(run.dir / "samples.png", images, title)
    run.figure("samples.png")
    width = loaded.arch.inputs
    view.write(run, images, _strips(spec, loaded, run, images.shape[1:]))
    gap = _export(loaded, about, run) if spec.onnx else None
    run.result(
        count=spec.count,
        shape=[loaded.shape.side, loaded.shape.side, loaded.shape.channels],
        noise_dim=width,
        latent_dim=loaded.arch.latent_dim,
        onnx_gap=gap,
    )


def _strips(spec: LcwSample, loaded: LoadedNets, run: Run, image: Sequence[int]) -> paths.Strips:
    """Ways between pairs of samples and their picture; none where the spec asks for none."""
    if not spec.interpolations:
        return {}
    pairs, width = spec.interpolations, loaded.arch.inputs
    steps = view.steps_of(image, pairs)
    strips = paths.strips(loaded.nets, pairs, width, spec.seed, run.device, steps)
    pictures.interpolations(run.dir / "interpolations.png", strips)
    run.figure("interpolations.png")
    return strips


def _draw(spec: LcwSample, loaded: LoadedNets, run: Run) -> torch.Tensor:
    """All images, chunk by chunk, and the file that holds them with their noise."""
    width = loaded.arch.inputs
    draws, images = [], []
    for first in range(0, spec.count, CHUNK):
        run.check_stop()
        count = min(CHUNK, spec.count - first)
        noise = torch.randn(CHUNK, width, generator=generator(spec.seed, "sample", first))[:count]
        latents = in_parts(loaded.nets.generator, noise.to(run.device))
        images.append(decode(loaded.nets.decoder, latents).cpu())
        draws.append(noise)
        run.log(first + count, samples=float(first + count))
        run.progress(first + count, spec.count, phase="sample", unit="image")
    whole = torch.cat(images)
    np.savez(run.dir / "samples.npz", images=whole.numpy(), noise=torch.cat(draws).numpy())
    run.artifact("samples.npz", role="samples")
    return whole


def _export(loaded: LoadedNets, about: Mapping[str, Any], run: Run) -> float:
    width = loaded.arch.inputs
    noise = torch.randn(export.TESTED, width, generator=generator(0, "onnx", 0)).to(run.device)
    path = run.dir / "generator.onnx"
    gap = export.write(path, loaded.nets.whole(), width, noise, {"lcw": about["lcw"]})
    run.artifact("generator.onnx", role="export")
    return gap
