"""Settings of LCW and its peers compared in one classifier's features.

    python -m tests.bench.lcw_search --data PATH --classifier FILE --seeds 10 11 --out FILE.json

Settings are chosen on seeds 10 and 11 and judged on 0 to 4: arms "cw2 3500 lr 1e-3" and its peers.

An arm is an autoencoder: its samples from N(0, I) are CWAE where its objective is cwae. Each
carries several trainings of phase 2. Every arm is kept as soon as it is done.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from models.core.device import tune
from models.lcw import evaluate, features, scores, setup
from models.lcw.spec import LcwTrain
from models.lcw.stages import noise
from tests.bench.lcw_forms import keep, machine
from tests.bench.lcw_quality import (
    clock,
    data_of,
    fields,
    new_run,
    read,
    spread,
    stage,
    variant,
)

COSINE = {"schedule": "cosine"}
FULL = {"reference": "full", "statistic": "u"}
SECOND = {
    "batch": {},
    "u": {"statistic": "u"},
    "full_u_1024": {**FULL, "batch_size": 1024},
    "full_u_2048_lr_5e-3": {**FULL, "batch_size": 2048, "lr": 5e-3},
    "held": {"schedule": "constant"},
}
ARMS = {
    "cw2 3500": {"objective": "cw2"},
    "cwae 3500": {"objective": "cwae"},
    "cwae 4000": {"objective": "cwae", "share": 1},
    "cw2 3500 gamma 1e-3": {"objective": "cw2", "gamma_mode": "value", "gamma": 1e-3},
    "cw2 3500 lr 1e-3": {"objective": "cw2", "lr": 1e-3},
    "wae_mmd 4000": {"peer": "wae_mmd"},
    "ae 3500": {"objective": "ae"},
    "cw2 3500 batch 128": {"objective": "cw2", "batch_size": 128},
    "cw2 3500 lambda .2": {"objective": "cw2", "penalty": 0.2},
    "cwae 3500 lambda 10": {"objective": "cwae", "penalty": 10},
    "cwae 3500 lr 4e-3": {"objective": "cwae", "lr": 4e-3},
    "cwae 3500 held": {"objective": "cwae", "schedule": "constant"},
    "cwae 3800": {"objective": "cwae", "share": 0.95},
    "cw2 3500 lr 4e-3": {"objective": "cw2", "lr": 4e-3},
    "cwae 3500 lambda .1": {"objective": "cwae", "penalty": 0.1},
    "cw2 3500 held": {"objective": "cw2", "schedule": "constant"},
    "cwae 4000 lr 1e-3": {"objective": "cwae", "share": 1, "lr": 1e-3},
    "wae_mmd 4000 lr 1e-3": {"peer": "wae_mmd", "lr": 1e-3},
}


def spec_of(data, options, seed, change):
    """Spec of an arm; the second phase takes what is left of the steps."""
    contents = dict(change)
    peer = contents.pop("peer", None)
    first = round(contents.pop("share", 7 / 8) * options.total)
    options.steps = (first, max(1, options.total - first))
    values = fields(data, options, seed, peers=[peer] if peer else [])
    values["phase1"] |= {**COSINE, **contents}
    values["phase2"] |= COSINE
    values["evaluation"]["kid"] = False
    return LcwTrain.model_validate(values), peer


def arm(data, seen, options, seed, change, kept):
    """Trains an arm and writes its figures into ``kept`` as they come."""
    device, times = options.device, kept.setdefault("seconds", {})
    spec, peer = spec_of(data, options, seed, change)
    kept |= {"phase1": spec.phase1.model_dump(), "scores": {}}
    real = seen.of(data.train)
    with TemporaryDirectory() as folder:
        training = setup.make_training(spec, data, new_run(folder, device))
        if peer:
            with clock(times, peer, device):
                training.train(2, stage(training, data, peer))
            shape = (spec.evaluation.num_samples, spec.arch.latent_dim)
            draws = noise(seed, "samples", 0, shape, device)
            made = evaluate.decode(training.nets[f"{peer}_decoder"], draws)
            kept["scores"][peer] = scores.frechet(seen.of(made), real)
            return
        for number, name in enumerate(spec.steps()):
            with clock(times, name, device):
                training.train(number, stage(training, data, name))
        figures, _ = evaluate.evaluate(training, data, seen)
        kept |= {name: figures[name] for name in ("reconstruction", "latent")}
        kept["scores"]["reconstructed"] = figures["reconstructed"]["frechet"]
        kept["scores"] |= {k: v["frechet"] for k, v in figures["scores"].items()}
        for name in options.second if spec.phase2.max_steps > 1 else ():
            with clock(times, name, device):
                made = variant(training, data, SECOND[name])
            kept["scores"][name] = scores.frechet(seen.of(made), real)


def summary(rows):
    """Mean, standard deviation and values over seeds of every distance, by arm."""
    figures = {}
    for row in rows:
        for name, value in row["scores"].items():
            figures.setdefault(f"{row['arm']}: {name}", []).append(value)
    return {key: {**spread(values), "values": values} for key, values in figures.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--classifier", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--budget-s", type=float, default=260)
    parser.add_argument("--total", type=int, default=4000, help="steps of both phases")
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--second", nargs="*", default=list(SECOND)[1:], choices=list(SECOND))
    options = parser.parse_args()
    until = time.monotonic() + options.budget_s
    device = options.device = "cuda" if torch.cuda.is_available() else "cpu"
    tune(device)
    data = data_of(read(options.data, device), device, options.quick)
    seen = features.of_classifier(*features.load_classifier(options.classifier, data), data)
    results = {"machine": machine(device), "total": options.total, "second": SECOND, "arms": []}
    longest = 0.0
    for seed in options.seeds:
        for name in options.arms:
            start = time.monotonic()
            if start + longest > until:
                print("the budget ends here")
                return
            results["arms"].append({"arm": name, "seed": seed})
            arm(data, seen, options, seed, ARMS[name], results["arms"][-1])
            spent = time.monotonic() - start
            longest = spent if longest == 0 else max(longest * 0.7, spent)
            row = results["arms"][-1]
            print(name, seed, {k: round(v, 2) for k, v in row["scores"].items()}, flush=True)
            print({k: round(v, 1) for k, v in row["seconds"].items()}, flush=True)
            results["frechet"] = summary(results["arms"])
            keep(options.out, results)


if __name__ == "__main__":
    main()
