"""The data of a run and its stages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from models.core import checkpoint, device, ranks
from models.core.device import generator
from models.core.errors import DataError, SpecError
from models.core.run import Run
from models.data import images
from models.data.spec import ImageOptions
from models.lcw import distance, objectives
from models.lcw.fields import Architecture
from models.lcw.gather import alone, gather
from models.lcw.nets import Affine, ImageShape, Nets, build, describe, in_parts
from models.lcw.spec import LcwTrain
from models.lcw.stages import Inputs, StagedTraining, TrainingStage, noise


class Data(NamedTuple):
    """Images uint8 [n, h, w, c] on the device: to train, to validate, to test once; labels."""

    train: Tensor
    labels: Tensor
    validation: Tensor
    test: Tensor
    test_labels: Tensor
    classes: list[str]

    @property
    def shape(self) -> ImageShape:
        return ImageShape(self.train.shape[3], self.train.shape[1])


def pixels(images: UInt8[Tensor, "n h w c"]) -> Float[Tensor, "n c h w"]:
    """Values in [0, 1]."""
    return images.permute(0, 3, 1, 2).float() / 255


def load(spec: LcwTrain, run: Run) -> Data:
    """Read the images and keep a part of the training ones to validate.

    Raises:
        DataError: if the data is not there or too small.
        SpecError: if the architecture or a phase cannot use it.
    """
    given = spec.images
    options = ImageOptions(subset=given.subset, image_size=given.image_size, fit="squash")
    loaded = images.load(spec.data, options, run, spec.images.split_seed)
    height, width = loaded.size
    spec.arch.check(height, loaded.channels, square=height == width)
    n = len(loaded.train)
    kept = n - spec.kept(n, len(loaded.test))
    draws = generator(spec.images.split_seed, "validation", 0)
    order = torch.randperm(n, generator=draws).to(run.device)
    held, rest = order[:kept], order[kept:]
    train, labels = loaded.train[rest], loaded.train_labels[rest]
    return Data(
        train, labels, loaded.train[held], loaded.test[:], loaded.test_labels, list(loaded.classes)
    )


def make_training(spec: LcwTrain, data: Data, run: Run) -> StagedTraining:
    """All nets with the initial weights of the seed, phase 1 taken over where asked for.

    Raises:
        DataError: if the weights to take over cannot be read.
        SpecError: if they are of another architecture.
    """
    arch = spec.arch.resolve(data.shape.side, data.shape.channels)
    device.seed_all(spec.seed)
    nets = nn.ModuleDict(build(arch, data.shape)._asdict())
    for name in spec.evaluation.trained_baselines():
        peer = build(arch, data.shape)
        nets.update({f"{name}_encoder": peer.encoder, f"{name}_decoder": peer.decoder})
    if spec.phase1_from is not None:
        file = load_nets(run.input(spec.phase1_from), run.device)[0]
        if describe(file.arch, file.shape)["image"] != data.shape._asdict() or not _agree(
            file.arch, arch
        ):
            raise SpecError(
                f"phase1_from holds {file.arch.model_dump()} for {file.shape}; this spec asks for"
                f" {arch.model_dump()} and images {data.shape}"
            )
        nets["encoder"].load_state_dict(file.nets.encoder.state_dict())
        nets["decoder"].load_state_dict(file.nets.decoder.state_dict())
    nets.to(run.device)
    peers = spec.evaluation.trained_baselines()
    about = {**describe(arch, data.shape), "baselines": peers}
    return StagedTraining(spec, run, nets.eval(), {"lcw": about, "classes": data.classes})


def _agree(a: Architecture, b: Architecture) -> bool:
    fields = ("preset", "latent_dim", "width", "depth")
    return all(getattr(a, field) == getattr(b, field) for field in fields)


class LoadedNets(NamedTuple):
    """Nets of a file, in evaluation mode."""

    nets: Nets
    arch: Architecture
    shape: ImageShape


def load_nets(path: Path, on: str) -> tuple[LoadedNets, dict[str, Any]]:
    """Nets of weights or a checkpoint of lcw.train, and the file's description.

    Raises:
        DataError: if the file is of something else.
    """
    tensors, description = checkpoint.read(path)
    try:
        about = description["lcw"]
        arch, shape = Architecture.model_validate(about["arch"]), ImageShape(**about["image"])
        nets = build(arch, shape)
        for name, net in nets._asdict().items():
            whole = checkpoint.part(tensors, "net") or tensors
            net.load_state_dict(checkpoint.part(whole, name))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{path.name} holds no generator of lcw.train: {error}",
            hint="name an artifact of role weights or checkpoint of a job of kind lcw.train",
        ) from error
    return LoadedNets(Nets(*(net.to(on).eval() for net in nets)), arch, shape), description


def autoencoder_stage(training: StagedTraining, data: Data) -> TrainingStage:
    """Phase 1."""
    spec, nets = training.spec.phase1, training.nets
    std = pixels(data.train).std().item()

    def loss(batch: Tensor, whole: Callable[[Tensor], Tensor] = gather) -> Tensor:
        latents = nets["encoder"](batch)
        return objectives.autoencoder(spec, batch, latents, nets["decoder"](latents), std, whole)

    def inputs(rows: Int64[Tensor, "b"], _: int) -> Inputs:
        batch = pixels(data.train[rows])
        return Inputs(batch, batch.new_empty(0))

    return TrainingStage(
        "autoencoder",
        ("encoder", "decoder"),
        spec,
        spec.max_steps,
        len(data.train),
        inputs,
        lambda given: loss(given.rows),
        lambda: _mean(lambda batch: loss(batch, alone), data.validation, spec.batch_size),
        waits=spec.gamma_mode == "dynamic",
    )


def _mean(loss: Callable[[Tensor], Tensor], rows: Tensor, size: int) -> float:
    """Mean of a loss over batches of held-out images; a ragged last one is dropped."""
    size = min(size, len(rows))
    parts = rows[: len(rows) // size * size].split(size)
    return torch.stack([loss(pixels(part)) for part in parts]).mean().item()


def generator_stage(training: StagedTraining, data: Data) -> TrainingStage:
    """Phase 2, the Latent Trick: encode once, then match noise to the latents."""
    spec, phase, nets = training.spec, training.spec.phase2, training.nets
    encoded = encode(nets["encoder"], data.train)
    held = encode(nets["encoder"], data.validation)
    std = encoded.std().item()
    if std == 0:
        raise DataError("every image has the same latent: phase 1 has learned nothing")
    units = next(part for part in nets["generator"].children() if isinstance(part, Affine))
    units.fit(encoded)
    width, whole = spec.arch.inputs, phase.reference == "full"

    def inputs(rows: Int64[Tensor, "b"], step: int) -> Inputs:
        shape = (len(rows) * ranks.world_size(), width)
        draws = ranks.share(noise(spec.seed, "generator", step, shape, training.run.device))
        return Inputs(encoded[:0] if whole else encoded[rows], draws)

    def loss(given: Inputs) -> Tensor:
        target = encoded if whole else gather(given.rows)
        made = gather(nets["generator"](given.draws))
        gamma = objectives.bandwidth(phase, std, target, len(made))
        return distance.two_sample(
            made, target, gamma, phase.phi, include_yy=not whole, statistic=phase.statistic
        )

    shape = (len(held), width)
    fixed = noise(spec.seed, "generator validation", 0, shape, training.run.device)

    def validate() -> float:
        gamma = distance.silverman(std, len(held))
        return distance.two_sample(nets["generator"](fixed), held, gamma, "exact").item()

    return TrainingStage(
        "generator",
        ("generator",),
        phase,
        phase.max_steps,
        len(encoded),
        inputs,
        loss,
        validate,
        waits=phase.gamma_mode == "dynamic",
    )


def encode(encoder: nn.Module, rows: UInt8[Tensor, "n h w c"]) -> Float[Tensor, "n d"]:
    """Latents of images, in evaluation mode."""
    return torch.cat([in_parts(encoder, pixels(part)) for part in rows.split(1024)])


def baseline_stage(training: StagedTraining, data: Data, name: str) -> TrainingStage:
    """An autoencoder whose latents are pushed to N(0, I) by a peer's penalty."""
    spec, nets = training.spec, training.nets
    encoder, decoder = nets[f"{name}_encoder"], nets[f"{name}_decoder"]

    dim = spec.arch.latent_dim

    def inputs(rows: Int64[Tensor, "b"], step: int) -> Inputs:
        return given(pixels(data.train[rows]), step, len(rows) * ranks.world_size())

    def given(batch: Tensor, step: int, count: int) -> Inputs:
        on = training.run.device
        if name == "swae":
            count += objectives.SWAE_PROJECTIONS  # directions, after the normal sample
        empty = name == "cwae"
        return Inputs(batch, noise(spec.seed, name, step, (0 if empty else count, dim), on))

    def loss(given: Inputs, whole: Callable[[Tensor], Tensor] = gather) -> Tensor:
        latents, batch = encoder(given.rows), given.rows
        error = objectives.squared_error(batch, decoder(latents))
        return error + penalty(whole(latents), given.draws)

    def penalty(latents: Tensor, draws: Tensor) -> Tensor:
        if name == "cwae":
            return torch.log(distance.normality(latents) + spec.phase1.eps)
        if name == "wae_mmd":
            return dim * objectives.wae_mmd(latents, draws)
        normal, lines = draws.split((len(latents), objectives.SWAE_PROJECTIONS))
        return dim * objectives.swae(latents, normal, functional.normalize(lines))

    return TrainingStage(
        name,
        (f"{name}_encoder", f"{name}_decoder"),
        spec.phase1,
        spec.phase1.max_steps + spec.phase2.max_steps,
        len(data.train),
        inputs,
        loss,
        lambda: _mean(
            lambda batch: loss(given(batch, 0, len(batch)), alone),
            data.validation,
            spec.phase1.batch_size,
        ),
    )
