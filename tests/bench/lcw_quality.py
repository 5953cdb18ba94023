"""Generators compared in one classifier's features: LCW, its options, and its peers, over seeds.

    python -m tests.bench.lcw_quality --data PATH --classifier FILE --train-classifier
    python -m tests.bench.lcw_quality --data PATH --classifier FILE --out FILE.json --seeds 0 1

PATH is an npz of tests/bench/cifar10.py, or a folder with the test files of MNIST. The classifier
is trained once and read by every later call, so that runs on several GPUs share one scale. All get
the same number of steps: a peer with an autoencoder of its own as many as both phases together.
"""

import argparse
import gzip
import math
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from models.core.device import generator
from models.core.run import Run
from models.data import images
from models.data.arrays import Labelled, split
from models.lcw import evaluate, features, nets, scores, setup
from models.lcw.spec import LcwTrain
from models.lcw.stages import noise
from tests.bench import cifar10
from tests.bench.lcw_forms import keep, machine

PEERS = ("cwae", "wae_mmd")
VARIANTS = {
    "lcw_u": {"statistic": "u"},
    "lcw_full": {"reference": "full"},
    "lcw_full_u": {"reference": "full", "statistic": "u"},
    "lcw_2048": {"batch_size": 2048},
    "lcw_full_u_2048": {"reference": "full", "statistic": "u", "batch_size": 2048},
    "lcw_full_u_8192": {"reference": "full", "statistic": "u", "batch_size": 8192},
    "lcw_exact": {"phi": "exact"},
}


def read(path, device):
    """CIFAR-10's images, or MNIST's test images split in training and test."""
    if path.is_file():
        return cifar10.load(path, device)
    figures = []
    for name, offset in (("t10k-images-idx3-ubyte.gz", 16), ("t10k-labels-idx1-ubyte.gz", 8)):
        raw = gzip.decompress((path / name).read_bytes())
        figures.append(np.frombuffer(raw, np.uint8, -1, offset))
    pixels, labels = figures[0].reshape(-1, 28, 28, 1).copy(), figures[1].astype(np.int64)
    parts = split(Labelled(pixels, labels), [str(digit) for digit in range(10)])
    train, test = ([torch.from_numpy(a) for a in part] for part in (parts.train, parts.test))
    return images.from_tensors(train, test, list(parts.classes), device)


def data_of(figures, device, quick):
    """The set as a run would hold it: a tenth of the training images to validate, one split."""
    few = slice(0, 300 if quick else None)
    pixels, labels = figures.train[few], figures.train_labels[few]
    order = torch.randperm(len(pixels), generator=generator(0, "validation", 0)).to(device)
    held = len(pixels) // 10
    kept, rest = order[:held], order[held:]
    test, test_labels = figures.test[few], figures.test_labels[few]
    return setup.Data(
        pixels[rest], labels[rest], pixels[kept], test, test_labels, list(figures.classes)
    )


def fields(data, options, seed, objective="cw2", peers=PEERS):
    """Spec of a run."""
    conv, small = data.shape.channels == 3, options.quick
    first, second = options.steps
    return {
        "kind": "lcw.train",
        "data": {"dataset": "given"},
        "seed": seed,
        "arch": {
            "preset": "conv" if conv else "mlp",
            "latent_dim": 64 if conv else 8,
            "width": 8 if small else None,
            "generator": {"depth": 5, "width": 16 if small else 512},
        },
        "phase1": {"max_steps": first, "validate_every": first, "objective": objective},
        "phase2": {"max_steps": second, "validate_every": second},
        "evaluation": {
            "num_samples": 100 if small else 10_000,
            "classifier_steps": 5 if small else 3000,
            "baselines": ["gmm10", "normal", *peers],
        },
    }


def new_run(folder, device):
    return Run(Path(folder), device=device, checkpoint_interval_s=1e9)


def train_classifier(data, options, device):
    spec = LcwTrain.model_validate(fields(data, options, 0))
    with TemporaryDirectory() as folder:
        net, made = features.train_classifier(spec.evaluation, data, new_run(folder, device))
    features.save_classifier(options.classifier, net, made)
    print(features.of_classifier(net, made, data).about, flush=True)


def one_seed(data, seen, options, seed, device):
    """Scores of method, options and peers by objective of phase 1, all with as many steps.

    The peers with autoencoders of their own are trained once, beside the first objective.
    """
    figures = {"seed": seed, "seconds": {}, "objectives": {}}
    for objective in options.objectives:
        peers = [] if figures["objectives"] else PEERS
        spec = LcwTrain.model_validate(fields(data, options, seed, objective, peers))
        times = figures["seconds"][objective] = {}
        figures["objectives"][objective] = _scored(spec, data, seen, options, device, times)
    return figures


def _scored(spec, data, seen, options, device, times):
    with TemporaryDirectory() as folder:
        training = setup.make_training(spec, data, new_run(folder, device))
        for number, name in enumerate(spec.steps()):
            with clock(times, name, device):
                training.train(number, stage(training, data, name))
        with clock(times, "evaluation", device):
            figures, _ = evaluate.evaluate(training, data, seen)
        real = seen.of(data.train)
        for name in options.variants:
            with clock(times, name, device):
                made = variant(training, data, VARIANTS[name])
            figures["scores"][name] = {
                "frechet": scores.frechet(seen.of(made), real),
                "phase2": VARIANTS[name],
            }
    kept = ("floor", "reconstructed", "scores", "reconstruction", "latent")
    return {name: figures[name] for name in kept}


def stage(training, data, name):
    if name == "autoencoder":
        return setup.autoencoder_stage(training, data)
    if name == "generator":
        return setup.generator_stage(training, data)
    return setup.baseline_stage(training, data, name)


def variant(training, data, change):
    """Images of a phase 2 with other options on the same autoencoder."""
    fields = training.spec.model_dump(mode="json", exclude_none=True)
    fields["phase2"] |= change
    spec = LcwTrain.model_validate(fields)
    other = setup.make_training(spec, data, training.run)
    for name in ("encoder", "decoder"):
        other.nets[name].load_state_dict(training.nets[name].state_dict())
    other.state.stage = 1
    other.train(1, setup.generator_stage(other, data))
    shape = (spec.evaluation.num_samples, spec.arch.inputs)
    latents = nets.in_parts(
        other.nets["generator"], noise(spec.seed, "samples", 0, shape, training.run.device)
    )
    return evaluate.decode(other.nets["decoder"], latents)


class clock:  # noqa: N801  # a context manager
    """Seconds of a part of the work, with what the GPU still had to do."""

    def __init__(self, times, name, device):
        self.times, self.name, self.device = times, name, device

    def __enter__(self):
        self.start = time.perf_counter()

    def __exit__(self, *_):
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.times[self.name] = time.perf_counter() - self.start


def summary(rows):
    """Mean and standard deviation over seeds of every Frechet distance, and of it less a peer's."""
    figures = {}
    for objective, first in rows[0]["objectives"].items():
        every = [row["objectives"][objective] for row in rows]
        for name in first["scores"]:
            values = [one["scores"][name]["frechet"] for one in every]
            mixed = [one["scores"]["gmm10"]["frechet"] for one in every]
            gaps = [value - other for value, other in zip(values, mixed, strict=True)]
            figures[f"{objective} {name}"] = {**spread(values), "less_gmm10": spread(gaps)}
        for name in ("floor", "reconstructed"):
            figures[f"{objective} {name}"] = spread([one[name]["frechet"] for one in every])
    return figures


def spread(values):
    mean = sum(values) / len(values)
    square = sum((v - mean) ** 2 for v in values)
    return {"mean": mean, "sd": math.sqrt(square / max(1, len(values) - 1)), "seeds": len(values)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--classifier", type=Path, required=True)
    parser.add_argument("--train-classifier", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--budget-s", type=float, default=240)
    parser.add_argument("--steps", type=int, nargs=2, default=[2000, 2000], help="of each phase")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--objectives", nargs="+", default=["cw2"], choices=("ae", "cwae", "cw2"))
    options = parser.parse_args()
    until = time.monotonic() + options.budget_s
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = {name: str(value) for name, value in vars(options).items() if name != "out"}
    settings |= {"data": options.data.name, "classifier": options.classifier.name}
    data = data_of(read(options.data, device), device, options.quick)
    if options.train_classifier:
        train_classifier(data, options, device)
        return
    seen = features.of_classifier(*features.load_classifier(options.classifier, data), data)
    results = {"machine": machine(device), "options": settings, "features": seen.about, "runs": []}
    longest = 0.0
    for seed in options.seeds:
        start = time.monotonic()
        if start + longest > until:
            print("the budget ends here")
            break
        results["runs"].append(one_seed(data, seen, options, seed, device))
        results["frechet"] = summary(results["runs"])
        longest = max(longest, time.monotonic() - start)
        print(options.data.name, seed, results["runs"][-1]["seconds"])
        print({k: round(v["mean"], 2) for k, v in results["frechet"].items()}, flush=True)
        keep(options.out, results)


if __name__ == "__main__":
    main()
