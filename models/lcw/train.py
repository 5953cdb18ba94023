"""Training of a latent Cramer-Wold generator (Knop et al., arXiv 2009.07327), start to report."""

from collections.abc import Mapping
from typing import Any

import torch

from models.core import checkpoint, device, ranks
from models.core.run import Run
from models.lcw import evaluate, export, features, paths, pictures, report, view
from models.lcw.nets import Nets, in_parts
from models.lcw.setup import (
    Data,
    autoencoder_stage,
    baseline_stage,
    encode,
    generator_stage,
    load,
    make_training,
)
from models.lcw.spec import LcwTrain
from models.lcw.stages import StagedTraining, TrainingStage, noise

STRIPS = 6


def train(spec: LcwTrain, run: Run) -> None:
    """Both phases and the baselines, then scores, pictures, ONNX and report.

    With several processes each takes a part of every batch; losses are of the whole batch.

    Raises:
        SpecError: if the data cannot be used as asked, or a batch does not divide.
        DataError: if the data, a checkpoint or weights cannot be used.
        DivergedError: if a loss is not finite.
        StoppedError: if a stop was requested.
    """
    device.tune(run.device)
    ranks.start(run.device)
    data = load(spec, run)
    training = make_training(spec, data, run)
    for number, name in enumerate(spec.steps()):
        training.train(number, _stage(training, data, name))
    if ranks.is_first():
        _finish(training, data)


def _finish(training: StagedTraining, data: Data) -> None:
    """Weights, scores, pictures and reports of nets that have been trained."""
    spec, run = training.spec, training.run
    nets = Nets(training.nets["encoder"], training.nets["decoder"], training.nets["generator"])
    figures, made = evaluate.evaluate(training, data, features.make(spec, data, run))
    about = card(training, figures["scores"]["lcw"])
    _leave_weights(training, nets, about)
    figures |= {
        "data": spec.data.dataset,
        "spec": spec.model_dump(mode="json"),
        "device": device.describe(run.device),
        "history": training.state.history,
        "onnx_gap": _export(training, nets, about),
    }
    report.write(run, figures, _draw(training, data, nets, made))
    _report_result(training, figures)


def _stage(training: StagedTraining, data: Data, name: str) -> TrainingStage:
    if name == "autoencoder":
        return autoencoder_stage(training, data)
    if name == "generator":
        return generator_stage(training, data)
    return baseline_stage(training, data, name)


def card(training: StagedTraining, scores: Mapping[str, Any]) -> dict[str, Any]:
    """What the files tell of their nets; the same training gives the same bytes.

    Args:
        training: after its last step.
        scores: of the generator.
    """
    spec = training.spec
    left_out = {"threads", "resume_from"}
    return training.description | {
        "kind": spec.kind,
        "test": dict(scores),
        "dataset": {"name": spec.data.dataset, "sha256": spec.data.sha256},
        "seed": spec.seed,
        "spec": spec.model_dump(mode="json", exclude=left_out),
        "versions": device.versions(training.run.device),
    }


def _leave_weights(training: StagedTraining, nets: Nets, about: Mapping[str, Any]) -> None:
    whole = torch.nn.ModuleDict(nets._asdict()).state_dict()
    checkpoint.write(training.run.dir / "weights.safetensors", whole, about)
    training.run.artifact("weights.safetensors", role="weights", step=training.done())


def _export(training: StagedTraining, nets: Nets, about: Mapping[str, Any]) -> float:
    width = training.spec.arch.inputs
    draws = noise(training.spec.seed, "onnx", 0, (export.TESTED, width), training.run.device)
    path = training.run.dir / "generator.onnx"
    gap = export.write(path, nets.whole(), width, draws, about)
    training.run.artifact("generator.onnx", role="export")
    return gap


def _draw(training: StagedTraining, data: Data, nets: Nets, made: Any) -> dict[str, str]:
    """All pictures as artifacts, and the view; file name to caption."""
    run, spec, folder = training.run, training.spec, training.run.dir
    width = training.spec.arch.inputs
    pictures.samples(folder / "samples.png", made, "samples, not selected")
    pictures.reconstructions(folder / "reconstructions.png", nets, data.test)
    steps = view.steps_of(made.shape[1:], STRIPS)
    strips = paths.strips(nets, STRIPS, width, spec.seed, run.device, steps)
    pictures.interpolations(folder / "interpolations.png", strips)
    pictures.neighbours(folder / "neighbours.png", made, data.train)
    draws = noise(spec.seed, "latents", 0, (pictures.SHOWN, width), run.device)
    encoded = encode(nets.encoder, data.train[: pictures.SHOWN])
    pictures.latents(folder / "latents.png", encoded, in_parts(nets.generator, draws))
    pictures.curves(folder / "curves.png", training.state.history)
    captions = {
        "samples.png": "Samples",
        "reconstructions.png": "Reconstructions",
        "interpolations.png": "Interpolations",
        "neighbours.png": "Nearest training images",
        "latents.png": "Latents",
        "curves.png": "Training",
    }
    for name in captions:
        run.figure(name, data=name in ("latents.png", "curves.png"))
    view.write(run, made, strips, data.train)
    return captions


def _report_result(training: StagedTraining, figures: dict[str, Any]) -> None:
    """Final metrics and the result."""
    own = figures["scores"]["lcw"]
    metrics = {"frechet": own["frechet"], "reconstruction": figures["reconstruction"]}
    if "kid" in own:
        metrics["kid"] = own["kid"]
    training.run.log(training.done(), **metrics)
    kept = (
        "features",
        "num_samples",
        "floor",
        "reconstructed",
        "scores",
        "reconstruction",
        "latent",
        "memorisation",
    )
    training.run.result(**{name: figures[name] for name in kept}, onnx_gap=figures["onnx_gap"])
