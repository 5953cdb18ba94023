"""Arms of FreeTickets on CIFAR-10: dense, dense ensemble, DST, EDST, its ablations, snapshots.

Started by ``python -m tests.bench.freetickets_gpu --quality``. A timed probe sizes the steps to the
budget; a pilot with a seed of its own chooses between settings of EDST on held-out training images.
Every seed goes through all main arms before the next begins, so a run cut off leaves whole seeds.
"""

import gzip
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch

from models.core import train
from models.core.run import Run
from models.data import images, synthetic
from models.freetickets import ensemble, evaluate, report, shifts
from models.freetickets import train as method
from models.freetickets.spec import FreeTicketsTrain
from tests.bench import cifar10

ON = "cuda" if torch.cuda.is_available() else "cpu"
HELD_OUT = 5000  # the last training images, a fifth at most: validation of the pilot
EDST_COST = 1.8  # 450 epochs to 250
LENGTH = 50_000  # images of an epoch, at least: a subset is repeated, or tests would rule the time

# cost in trainings of one dense net; A, the dense net, is a member of B: the same training
MAIN = {
    "B dense ensemble": (3.0, {"variant": "dense_ensemble"}),
    "D edst": (EDST_COST, {"variant": "edst"}),
    "C dst": (3.0, {"variant": "dst"}),
}
ABLATIONS = {
    "E edst q=0": (EDST_COST, {"variant": "edst", "escape": {"q": 0.0}}),
    "G snapshot": (EDST_COST, {"variant": "snapshot"}),
    "F static": (3.0, {"variant": "static"}),
}
GENTLE = {"prune_rate": {"p": 0.3, "schedule": "cosine"}, "freeze_last": 0.25}  # as RigL has it
SETTINGS = {
    "edst": {
        "cosine p, rates .2 .02": {
            "prune_rate": {"schedule": "cosine"},
            "rates": {"high": 0.2, "low": 0.02},
        },
        "cosine p, rates .5 .05": {
            "prune_rate": {"schedule": "cosine"},
            "rates": {"high": 0.5, "low": 0.05},
        },
        "gentle, rates .5 .05": {**GENTLE, "rates": {"high": 0.5, "low": 0.05}},
    },
    "dst": {"cosine p": {"prune_rate": {"schedule": "cosine"}}, "gentle": GENTLE},
}
PILOTS = {"edst": (EDST_COST / 2, 3), "dst": (0.5, 1)}  # cost at half length, members
FIGURES = ("accuracy", "nll", "ece", "brier")


def arguments(parser):
    parser.add_argument("--data", type=Path)
    parser.add_argument("--ood", type=Path, help="test images of MNIST, IDX in gzip")
    parser.add_argument("--steps", type=int, help="of one dense net, in place of the probe")
    parser.add_argument("--subset", type=int, help="training images; their order is the file's")
    for variant, settings in SETTINGS.items():
        parser.add_argument(f"--{variant}", choices=list(settings), help="in place of the pilot")
    parser.add_argument("--arms", choices=["main", "ablations", "all"], default="all")
    parser.add_argument("--seeds", type=int, default=3)


def run(bench, options):
    """Probe, pilot, arms seed by seed, summary; the file is written after each."""
    quick, data = options.quick, read(options.data, options.subset)
    strange = outside(options.ood, data)
    bench.found["images"] = [len(data.train), len(data.test)]
    whole = lengthened(data)
    warm = bench.section("probe", probe, whole, quick)
    steps = options.steps or sized(bench, warm, options)
    bench.found["steps_of_a_dense_net"] = steps
    chosen = {
        variant: getattr(options, variant) or pilot(bench, data, quick, steps, variant)
        for variant in SETTINGS
    }
    bench.found["settings"] = chosen
    groups = {"main": [MAIN], "ablations": [ABLATIONS], "all": [MAIN, ABLATIONS]}[options.arms]
    rows = {}
    for arms in groups:
        for seed in range(options.seeds):
            for name, (cost, fields) in arms.items():
                variant = fields["variant"]
                own = SETTINGS[variant][chosen[variant]] if variant in SETTINGS else {}
                total = {"max_steps": int(cost * steps), **own, **fields}
                key = f"{name} / seed {seed}"
                row = bench.section(key, arm, whole, strange, quick, total, seed, steps)
                if "nll" in row:
                    rows.setdefault(name, []).append(row)
                bench.found["summary"] = summary(rows)
                bench.write()


def read(path, subset):
    """CIFAR-10 or the first of its training images, or generated images."""
    if path is not None:
        return cifar10.load(path, ON, subset)
    pairs = [synthetic.blobs(n, 10, 32, 3, seed) for n, seed in ((256, 1), (100, 2))]
    return images.from_tensors(*map(list, pairs), [str(k) for k in range(10)], ON)


def lengthened(data):
    """The training images over and over, up to the length of an epoch."""
    times = max(1, LENGTH // len(data.train)) if ON == "cuda" else 1
    train = data.train.repeat(times, 1, 1, 1)
    return replace(data, train=train, train_labels=data.train_labels.repeat(times))


def outside(path, data):
    """Grey digits as colour images of the same size: uint8 [n, h, w, 3]; noise without a file."""
    if path is None:
        draw = torch.Generator().manual_seed(0)
        return torch.randint(256, (100, *data.size, 3), generator=draw, dtype=torch.uint8).to(ON)
    pixels = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, -1, 16)
    grey = torch.from_numpy(pixels.reshape(-1, 28, 28, 1).copy())
    return images.resize(grey, data.size[0]).expand(-1, -1, -1, 3).contiguous().to(ON)


def spec_of(quick, fields, seed):
    size = {"depth": 10, "widen": 1} if quick else {"depth": 16, "widen": 4}
    base = {
        "kind": "freetickets.train",
        "model": {"name": "wide_resnet", **size},
        "data": {"dataset": "none"},
        "images": {"augment": {"crop_padding": 4, "flip": True}},
        "batch_size": 32 if quick else 128,
        "optimizer": {"lr": 0.1, "nesterov": False, "warmup": 0},
        "update_interval": 2 if quick else 150,
        "seed": seed,
    }
    return FreeTicketsTrain.model_validate(base | fields)


def trained(data, spec):
    """The training of a job without its files, and what its tickets say of the test images."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder)
        with (run_dir / "events.jsonl").open("w") as events:
            run = Run(run_dir, events, device=ON, checkpoint_interval_s=1e9)
            training = method.prepare(spec, data, run)
            fitted = method.fit_tickets(training)
            tested = evaluate.test_tickets(training, spec.tickets, fitted.steps)
    return training, fitted, tested


def probe(data, quick):
    """Seconds of a step and of a test, after two epochs in which the libraries choose."""
    spec = spec_of(quick, {"variant": "dense", "members": 1, "epochs": 2}, 99)
    training, fitted, _ = trained(data, spec)
    per_epoch, _ = spec.steps(len(data.train))
    first, last = (row["seconds"] for row in fitted.history[-2:])
    began = time.perf_counter()
    train.test(training.net, data, spec, ON)
    test_s = time.perf_counter() - began
    step_s = (last - first) / per_epoch
    return {"step_s": step_s, "test_s": test_s, "whole_step_s": step_s + test_s / per_epoch}


def sized(bench, warm, options):
    """Steps of a dense net so that all main seeds and one seed of the ablations fit."""
    once = sum(cost for cost, _ in ABLATIONS.values())
    units = {
        "main": options.seeds * sum(cost for cost, _ in MAIN.values()),
        "ablations": options.seeds * once,
    }
    units["all"] = units["main"] + once
    arms = 3 * options.seeds + (3 if options.arms == "all" else 0)
    pilots = sum(
        len(SETTINGS[variant]) * cost
        for variant, (cost, _) in PILOTS.items()
        if not getattr(options, variant)
    )
    left = 0.9 * bench.left() - 0.7 * arms  # tickets are tested, nets are made
    steps = int(left / (units[options.arms] + pilots) / warm["whole_step_s"])
    return 24 if options.quick else max(500, min(steps, 20_000))


def pilot(bench, data, quick, steps, variant):
    """The setting of a variant with the best NLL on held-out images, at half length."""
    cut = len(data.train) - min(HELD_OUT, len(data.train) // 5)
    held = {"test": data.train[cut:], "test_labels": data.train_labels[cut:]}
    part = replace(data, train=data.train[:cut], train_labels=data.train_labels[:cut], **held)
    part, found = lengthened(part), {}
    cost, members = PILOTS[variant]
    for name, fields in SETTINGS[variant].items():
        total = {"variant": variant, "members": members, "max_steps": int(cost * steps), **fields}
        row = bench.section(f"pilot {variant} / {name}", arm, part, None, quick, total, 98, steps)
        found[name] = row.get("nll", float("inf"))
    return min(found, key=found.get)


def arm(data, strange, quick, fields, seed, dense_steps):
    """One arm with one seed: figures of ensemble and members, operations, seconds."""
    spec = spec_of(quick, fields, seed)
    training, fitted, tested = trained(data, spec)
    mixed = ensemble.mixture(tested.logs)
    members = [ensemble.figures(logs, tested.labels)._asdict() for logs in tested.logs]
    work = report.work(training, fitted)
    share = fitted.steps / dense_steps
    found = {
        **ensemble.figures(mixed, tested.labels)._asdict(),
        "members": members,
        "disagreement": ensemble.off_diagonal(ensemble.disagreement(tested.logs)),
        "kl_nats": ensemble.off_diagonal(ensemble.divergence(tested.logs)),
        "train_ratio_counted": share * work["step_ratio_counted"],
        "train_ratio_executed": share * work["step_ratio_executed"],
        "inference_ratio": work["inference_ratio"],
        "wall_s": fitted.clock.seconds,
        "steady_s": steady(work, len(training.changes())),
        "changes": training.changes()[-40:],
        "history": [{k: row[k] for k in ("step", "test_accuracy")} for row in fitted.history],
        "work": work,
        "fields": fields,
    }
    if spec.is_sparse:
        every = report.masks_of_tickets(training, spec.tickets)
        found["mask_iou"] = ensemble.off_diagonal(ensemble.jaccard(every))
    if strange is not None:
        inside, out = ensemble.doubt(tested.logs), ensemble.doubt(said(training, tested, strange))
        found["ood"] = {name: ensemble.detect(inside[name], out[name])._asdict() for name in inside}
    return found


def steady(work, changes):
    """Seconds by median steps: what others do on the same GPU, and recording, are left out."""
    plain = (work["steps"] - changes) * (work["median_step_ms"] or 0.0)
    return (plain + changes * (work["median_update_step_ms"] or 0.0)) / 1000


def said(training, tested, pixels):
    pairs = list(shifts.batches(training.data, pixels))
    return torch.stack([evaluate.predicted(training, net, pairs) for net in tested.nets])


def summary(rows):
    """Mean and standard deviation over seeds; A from the members of B; targets beside ratios."""
    found = {name: _arm_summary(some) for name, some in rows.items()}
    if "B dense ensemble" not in rows:
        return found
    dense = rows["B dense ensemble"]
    singles = [
        {
            **{key: mean(member[key] for member in row["members"]) for key in FIGURES},
            "wall_s": row["wall_s"] / len(row["members"]),
        }
        for row in dense
    ]
    found["A dense (mean member of B)"] = _arm_summary(singles)
    for name, some in rows.items():
        pairs = list(zip(some, dense, singles, strict=False))
        found[name]["against"] = {
            "wall_over_dense_ensemble": mean(r["wall_s"] / b["wall_s"] for r, b, _ in pairs),
            "steady_over_dense_ensemble": mean(r["steady_s"] / b["steady_s"] for r, b, _ in pairs),
            "points_to_dense": mean(100 * (r["accuracy"] - a["accuracy"]) for r, _, a in pairs),
            "points_to_dense_ensemble": mean(
                100 * (r["accuracy"] - b["accuracy"]) for r, b, _ in pairs
            ),
            "nll_over_dense": mean(r["nll"] / a["nll"] for r, _, a in pairs),
        }
    return found


def _arm_summary(some):
    keys = [key for key, value in some[0].items() if isinstance(value, float)]
    found = {
        key: {"mean": mean(values), "sd": stdev(values) if len(values) > 1 else None}
        for key in keys
        if None not in (values := [row[key] for row in some])
    }
    return {"seeds": len(some), **found}
