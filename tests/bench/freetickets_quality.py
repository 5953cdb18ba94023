"""Arms of FreeTickets on CIFAR-10: dense, dense ensemble, DST, EDST, its ablations, snapshots.

    python -m tests.bench.freetickets_quality --data NPZ [--ood IDX.gz] --epochs 40 \
        --arms "B; D: cosine; C: gentle" --seeds 0 --out FILE.json [--held-out] [--budget-s 500]
    python -m tests.bench.freetickets_quality --merge FILE.json ... --out ALL.json

An arm is a letter of ARMS and the name of one of its SETTINGS. Every seed goes through all arms
before the next begins; an arm that would pass the budget is left out, and JSON is written after
each. ``--held-out`` trains without the last training images and tests on them: for choosing
settings. NPZ is CIFAR-10 as ``tests.bench.cifar10`` packs it; IDX.gz are the test images of MNIST.
"""

import argparse
import gc
import gzip
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch

from models.core import device
from models.core.run import Run
from models.data import images, sizing, synthetic
from models.freetickets import ensemble, evaluate, report, shifts
from models.freetickets import train as method
from models.freetickets.spec import FreeTicketsTrain
from tests.bench import cifar10
from tests.bench.freetickets_gpu import Bench

ON = "cuda" if torch.cuda.is_available() else "cpu"
HELD_OUT = 5000  # the last training images
WATCHED = 500  # test images after each epoch; the tickets are tested on all
EDST_COST = 1.8  # 450 epochs to 250
LENGTH = 50_000  # images of an epoch, at least: a subset is repeated, or tests would rule the time

ARMS = {
    "B": "dense_ensemble",  # A, the dense net, is a member of it: the same training
    "C": "dst",
    "D": "edst",
    "E": "edst",
    "F": "static",
    "G": "snapshot",
}
ONE_RUN = ("edst", "snapshot")
COSINE = {"shape": "cosine", "high": 1.0, "low": 0.001}
P = {"prune_rate": {"schedule": "cosine"}}
GENTLE = {  # as RigL has it
    "prune_rate": {"initial": 0.3, "schedule": "cosine"},
    "freeze_last": 0.25,
}
# interval: epochs between updates. The authors' 1,000 steps of 88,000 are .45 epochs of 40
SETTINGS = {
    "": {},
    "p .5": {**P, "interval": 0.5},
    "gentle": {**GENTLE, "interval": 0.5},
    "gentle, 2 epochs": {**GENTLE, "interval": 2.0},
    "gentle, random": {**GENTLE, "interval": 0.5, "growth": "random"},
    "p .1": {
        "prune_rate": {"initial": 0.1, "schedule": "cosine"},
        "freeze_last": 0.25,
        "interval": 0.5,
    },
    "authors": {"interval": 0.5},
    "steps .5 .05": {**P, "interval": 0.5, "rates": {"high": 0.5, "low": 0.05}},
    "cosine": {**P, "interval": 0.5, "rates": COSINE},
    "cosine gentle": {**GENTLE, "interval": 0.5, "rates": COSINE},
    "cosine .5 gentle": {**GENTLE, "interval": 0.5, "rates": {**COSINE, "high": 0.5}},
    "cosine gentle, explore 1/6": {**GENTLE, "interval": 0.5, "rates": COSINE, "explore": 1 / 6},
    "cosine gentle, explore 1/2": {**GENTLE, "interval": 0.5, "rates": COSINE, "explore": 1 / 2},
}
FIGURES = ("accuracy", "nll", "ece", "brier")
OWN = ("sections", "seconds", "summary")  # of a result; the rest tells the set-up


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("freetickets_quality.json"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--ood", type=Path, help="test images of MNIST, IDX in gzip")
    parser.add_argument("--subset", type=int, help="training images; their order is the file's")
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--widen", type=int, default=4)
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--epochs", type=float, default=40, help="of one dense net")
    parser.add_argument("--arms", default="B; D: cosine gentle; C: gentle")
    parser.add_argument("--more", default="", help="arms for when all seeds have had the others")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--budget-s", type=float, default=500)
    parser.add_argument("--merge", type=Path, nargs="+", help="results to join, in place of a run")
    parser.add_argument("--quick", action="store_true", help="the same code, small")
    options = parser.parse_args()
    if options.merge:
        options.out.write_text(json.dumps(merged(options.merge), indent=1) + "\n")
        return
    device.tune(ON)
    run(Bench(options.out, options.budget_s), options)


def run(bench, options):
    """Arms seed by seed; the file is written after each."""
    data = read(options)
    strange = outside(options.ood, data)
    about = {name: getattr(options, name) for name in ("widen", "batch", "epochs", "held_out")}
    bench.figures |= about | {"images": [len(data.train), len(data.test)]}
    data, second = lengthened(data), 0.0  # seconds of a unit of cost, the most so far
    warm_up(data, options)
    groups = [part.split(";") for part in (options.arms, options.more) if part]
    for name, seed in [(name, seed) for part in groups for seed in options.seeds for name in part]:
        letter, _, setting = map(str.strip, name.partition(":"))
        cost = EDST_COST if ARMS[letter] in ONE_RUN else options.members
        if second * cost > bench.left():
            print(f"{name}, seed {seed}: left out, {bench.left():.0f} s", flush=True)
            continue
        key = f"{name.strip()} / seed {seed}"
        row = bench.section(key, arm, data, strange, options, letter, setting, cost, seed)
        second = max(second, row.get("wall_s", 0.0) * 1.05 / cost)
        print({key: row.get(key) for key in (*FIGURES, "failed")}, flush=True)
        gc.collect()


def warm_up(data, options):
    """Short runs, so that no arm pays for the choice of algorithms by the libraries."""
    short = argparse.Namespace(**{**vars(options), "epochs": 0.5, "members": 1})
    for letter in "BD":
        trained(data, spec_of(short, letter, "p .5", 1, 99, len(data.train) // options.batch))


def read(options):
    """CIFAR-10, whole or the first of its training images, or generated images."""
    if options.data is not None:
        data = cifar10.load(options.data, ON, options.subset)
    else:
        pairs = [synthetic.blobs(n, 10, 32, 3, seed) for n, seed in ((256, 1), (100, 2))]
        data = images.from_tensors(*map(list, pairs), [str(k) for k in range(10)], ON)
    if not options.held_out:
        return data
    cut = len(data.train) - min(HELD_OUT, len(data.train) // 5)
    return replace(
        data,
        train=data.train[:cut],
        train_labels=data.train_labels[:cut],
        test=data.train[cut:],
        test_labels=data.train_labels[cut:],
    )


def lengthened(data):
    """The training images over and over, up to the length of an epoch."""
    times = round(LENGTH / len(data.train)) if ON == "cuda" else 1
    train = data.train.repeat(times, 1, 1, 1)
    return replace(data, train=train, train_labels=data.train_labels.repeat(times))


def outside(path, data):
    """Grey digits as colour images of the same size: uint8 [n, h, w, 3]; noise without a file."""
    if path is None:
        draw = torch.Generator().manual_seed(0)
        return torch.randint(256, (100, *data.size, 3), generator=draw, dtype=torch.uint8).to(ON)
    pixels = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, -1, 16)
    grey = torch.from_numpy(pixels.reshape(-1, 28, 28, 1).copy())
    return sizing.resize(grey, data.size[0]).expand(-1, -1, -1, 3).contiguous().to(ON)


def spec_of(options, letter, setting, cost, seed, per_epoch):
    """The spec of an arm; the rate grows with the batch from .1 at 128."""
    size = {"depth": 10, "widen": 1} if options.quick else {"depth": 16, "widen": options.widen}
    fields = dict(SETTINGS[setting])
    total = int(cost * options.epochs * per_epoch)
    longest = max(1, total // (10 * options.members))  # in a phase of a short run
    interval = min(longest, max(1, round(fields.pop("interval", 0.5) * per_epoch)))
    if "explore" in fields:
        fields["explore"] = round(fields["explore"] * total)
    base = {
        "kind": "freetickets.train",
        "variant": ARMS[letter],
        "members": options.members,
        "model": {"name": "wide_resnet", **size},
        "data": {"dataset": "none"},
        "images": {"augment": {"crop_padding": 4, "flip": True}},
        "max_steps": total,
        "batch_size": options.batch,
        "optimizer": {"lr": 0.1 * options.batch / 128, "nesterov": False},
        "update_interval": interval,
        "escape": {"fraction": 0.0} if letter == "E" else {},
        "seed": seed,
    }
    return FreeTicketsTrain.model_validate(base | fields)


def trained(data, spec):
    """The training of a job without its files, and what its tickets say of the test images."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder)
        with (run_dir / "events.jsonl").open("w") as events:
            run = Run(run_dir, events, device=ON, checkpoint_interval_s=1e9)
            training = method.prepare(spec, few_tests(data), run)
            fitted = method.fit_tickets(training)
            training.data = data
            tested = evaluate.test_tickets(training, spec.tickets, fitted.steps)
    return training, fitted, tested


def few_tests(data):
    """What a test after each epoch would take is not the method's."""
    return replace(data, test=data.test[:WATCHED], test_labels=data.test_labels[:WATCHED])


def arm(data, strange, options, letter, setting, cost, seed):
    """One arm with one seed: figures of ensemble and members, operations, seconds."""
    spec = spec_of(options, letter, setting, cost, seed, len(data.train) // options.batch)
    training, fitted, tested = trained(data, spec)
    work, changes = report.work(training, fitted), training.changes()
    share = fitted.steps / int(options.epochs * (len(data.train) // options.batch))
    members = [ensemble.figures(logs, tested.labels)._asdict() for logs in tested.logs]
    pairs = list(images.evaluation_batches(training_part(data)))
    seen = [evaluate.predicted(training, net, pairs) for net in tested.nets]
    labels = torch.cat([label for _, label in pairs])
    figures = {
        **ensemble.figures(ensemble.mixture(tested.logs), tested.labels)._asdict(),
        "members": members,
        "members_on_training_images": [ensemble.figures(x, labels)._asdict() for x in seen],
        "disagreement": ensemble.off_diagonal(ensemble.disagreement(tested.logs)),
        "kl_nats": ensemble.off_diagonal(ensemble.divergence(tested.logs)),
        "train_ratio_counted": share * work["step_ratio_counted"],
        "train_ratio_executed": share * work["step_ratio_executed"],
        "inference_ratio": work["inference_ratio"],
        "wall_s": fitted.clock.seconds,
        "warmup_s": fitted.clock.warmup_seconds,
        "steady_s": steady(work, len(changes)),
        "changes": len(changes),
        "escapes": [row for row in changes if row["escape"]],
        "epoch_accuracy": [round(row["test_accuracy"], 4) for row in fitted.history],
        "work": work,
        "fields": SETTINGS[setting],
    }
    if spec.is_sparse:
        every = report.masks_of_tickets(training, spec.tickets)
        figures["mask_iou"] = ensemble.off_diagonal(ensemble.jaccard(every))
        figures["explored"] = training.topology.explored()
    inside, out = (
        ensemble.doubt(tested.logs),
        ensemble.doubt(predictions(training, tested, strange)),
    )
    figures["ood"] = {name: ensemble.detect(inside[name], out[name])._asdict() for name in inside}
    return figures


def training_part(data):
    """The first training images in place of the test images, as many."""
    count = len(data.test)
    return replace(data, test=data.train[:count], test_labels=data.train_labels[:count])


def steady(work, changes):
    """Seconds by median steps: what others do on the same GPU, and recording, are left out."""
    plain = (work["steps"] - changes) * (work["median_step_ms"] or 0.0)
    return (plain + changes * (work["median_update_step_ms"] or 0.0)) / 1000


def predictions(training, tested, pixels):
    pairs = list(shifts.batches(training.data, pixels))
    return torch.stack([evaluate.predicted(training, net, pairs) for net in tested.nets])


def merged(paths):
    """Sections of several files of one set-up as one, and the summary over their seeds.

    Raises:
        ValueError: if the files are of different set-ups.
    """
    parts = [json.loads(path.read_text()) for path in paths]
    about = [{k: v for k, v in part.items() if k not in OWN} for part in parts]
    if any(one != about[0] for one in about):
        raise ValueError(f"files of different set-ups or devices: {about}")
    sections = {name: row for part in parts for name, row in part["sections"].items()}
    return {**about[0], "sections": sections, "summary": summary(sections)}


def summary(sections):
    """Mean and standard deviation over seeds; A from the members of B; targets beside ratios."""
    rows = {}
    for key, row in sections.items():
        name, _, seed = key.partition(" / seed ")
        if "nll" in row:
            rows.setdefault(name, {})[int(seed)] = row
    figures = {name: averaged(list(some.values())) for name, some in rows.items()}
    dense = rows.get("B", {})
    singles = {seed: single(row) for seed, row in dense.items()}
    if singles:
        figures["A (mean member of B)"] = averaged(list(singles.values()))
    for name, some in rows.items():
        both = [(some[seed], dense[seed], singles[seed]) for seed in some if seed in dense]
        if both:
            figures[name]["against"] = against(both)
    return figures


def single(ensemble_row):
    """The mean member of a dense ensemble: figures, and its share of the seconds."""
    members = ensemble_row["members"]
    figures = {key: mean(member[key] for member in members) for key in FIGURES}
    return {**figures, "wall_s": ensemble_row["wall_s"] / len(members)}


def against(both):
    """Rows of an arm, the dense ensemble and the dense net of the same seed, compared."""
    differences = {
        "points_to_dense": [100 * (r["accuracy"] - a["accuracy"]) for r, _, a in both],
        "points_to_dense_ensemble": [100 * (r["accuracy"] - b["accuracy"]) for r, b, _ in both],
        "nll_over_dense": [r["nll"] / a["nll"] for r, _, a in both],
        "nll_over_dense_ensemble": [r["nll"] / b["nll"] for r, b, _ in both],
        "wall_over_dense_ensemble": [r["wall_s"] / b["wall_s"] for r, b, _ in both],
        "steady_over_dense_ensemble": [r["steady_s"] / b["steady_s"] for r, b, _ in both],
    }
    return {"seeds": len(both), **{key: spread(some) for key, some in differences.items()}}


def averaged(some):
    keys = [key for key, value in some[0].items() if isinstance(value, float)]
    figures = {
        key: spread(values) for key in keys if None not in (values := [r[key] for r in some])
    }
    return {"seeds": len(some), **figures}


def spread(values):
    return {"mean": mean(values), "sd": stdev(values) if len(values) > 1 else None}


if __name__ == "__main__":
    main()
