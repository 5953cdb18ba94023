"""The recipe of Jeong and Shin at its full length: several trainings share a GPU and span calls.

    python -m tests.bench.selective_long --out FILE --data FOLDER --keep FOLDER --budget-s 540
    python -m tests.bench.selective_long --out FILE --data FOLDER --keep FOLDER --budget-s 540 ...
    python -m tests.bench.selective_long --out FILE --keep FOLDER --beside FILE ... --runs ""

DenseNet-40, growth 12, 300 epochs of batch 64 at rate 0.1, 150 rounds of allocation, threshold
0.001; the rate falls along a cosine, where the authors cut it to a tenth at 1/2 and 3/4. All runs
at a time, a process each; each goes on from its last checkpoint in ``--keep``, so the same command
is given until no row is missing. Their times say nothing of one training alone. ``--beside`` takes
the rows of earlier files of the same setting in, so that arms of two lots are paired by seed.
"""

import argparse
import itertools
import json
import multiprocessing
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import torch

from models.core import device
from models.core.run import Run, StoppedError
from models.selective_convolution import report
from models.selective_convolution import train as method
from models.selective_convolution.spec import SelectiveConvolutionTrain
from tests.bench.selective_quality import REPORTED, make_spec, paired, read, summary

RUNS = "plain:0,plain:1,plain:2,selective@0.001:0,selective@0.001:1,selective@0.001:2"
CHECKPOINT_S = 60.0


def spec_of(name: str, options: argparse.Namespace) -> SelectiveConvolutionTrain:
    """Spec of ``ARM[@THRESHOLD]:SEED``."""
    arm, seed = name.split(":")
    arm, _, threshold = arm.partition("@")
    return make_spec(
        arm, int(seed), options.epochs, growth=options.growth,
        threshold=float(threshold or 1e-3), batch=options.batch,
    )  # fmt: skip


def train(name: str, options: argparse.Namespace, ends: float) -> None:
    """Train one run until it is done or the time is over; the row is left when it is done."""
    folder = options.keep / name.replace(":", "-")
    if (folder / "row.json").is_file():
        return
    resume = folder / "resume"
    resume.mkdir(parents=True, exist_ok=True)
    on = device.pick()
    device.tune(on)
    torch.set_num_threads(1)
    data, spec = read(options.data, on), spec_of(name, options)
    run = Run(folder, device=on, checkpoint_interval_s=CHECKPOINT_S)
    alarm = threading.Timer(ends - time.monotonic(), run.request_stop, ("the time is over",))
    alarm.daemon = True
    alarm.start()
    net = method.new_net(spec, data, on)
    try:
        counted, fitted = method.fit_selective(net, spec, data, run, method.SubRun())
    except StoppedError:
        keep_last(folder)
        return
    figures = report.values(spec, data, net, counted, fitted)
    row: dict[str, Any] = {"arm": name.split(":")[0], "seed": spec.seed, "epochs": spec.epochs}
    row |= {key: figures[key] for key in REPORTED}
    row["accuracy_by_epoch"] = [part["test_accuracy"] for part in fitted.history]
    (folder / "row.json").write_text(json.dumps(row))


def keep_last(folder: Path) -> None:
    """Move the newest checkpoint to where the next call resumes from, and drop the others."""
    *written, last = sorted((folder / "checkpoints").glob("*.safetensors"))
    shutil.rmtree(folder / "resume")
    (folder / "resume").mkdir()
    shutil.move(last, folder / "resume")
    for path in written:
        path.unlink()


def state_of(folder: Path) -> dict[str, Any]:
    """How far a run came and its last reported rate, of the lines of its events."""
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    metrics = [line for line in lines if line["type"] == "metric"]
    values = {key: value for line in metrics for key, value in line["values"].items()}
    shown = {key: values.get(key) for key in ("test_accuracy", "images_per_s", "loss")}
    return {"step": metrics[-1]["step"] if metrics else 0} | shown


def summarise(options: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    """Rows, how far the others came, means and paired differences to plain."""
    rows, unfinished = [], {}
    for name in names:
        folder = options.keep / name.replace(":", "-")
        if (folder / "row.json").is_file():
            rows.append(json.loads((folder / "row.json").read_text()))
        elif (folder / "events.jsonl").is_file():
            unfinished[name] = state_of(folder)
    setting = {key: getattr(options, key) for key in ("growth", "batch", "epochs")}
    devices = [device.describe(device.pick())] if names else []
    for path in options.beside:
        earlier = json.loads(path.read_text())
        if earlier["setting"] != setting:
            raise SystemExit(f"{path} has another setting: {earlier['setting']}, not {setting}")
        rows += earlier["rows"]
        devices += earlier.get("devices") or [earlier["device"]]
    of = {row["arm"]: [each for each in rows if each["arm"] == row["arm"]] for row in rows}
    return {
        "devices": devices,
        "setting": setting,
        "mean": {arm: summary(of[arm]) for arm in of},
        "paired": {
            f"{arm} less {base}": paired(of[arm], of[base])
            for base, arm in itertools.combinations(of, 2)
        },
        "rows": rows,
        "unfinished": unfinished,
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--beside", type=Path, nargs="*", default=[])
    parser.add_argument("--runs", default=RUNS, help="ARM[@THRESHOLD]:SEED, by commas")
    parser.add_argument("--growth", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--budget-s", type=float, default=540)
    return parser.parse_args()


def main() -> None:
    options = parse()
    names = [name for name in options.runs.split(",") if name]
    ends = time.monotonic() + options.budget_s
    start = multiprocessing.get_context("spawn")
    children = [start.Process(target=train, args=(name, options, ends)) for name in names]
    for child in children:
        child.start()
    for child in children:
        child.join()
    figures = summarise(options, names)
    options.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps({key: figures[key] for key in ("paired", "unfinished")}, indent=1))


if __name__ == "__main__":
    main()
