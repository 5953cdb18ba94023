"""FreeTickets on a GPU: correctness, cost of masks, ensemble inference, 2:4 layers, quality.

    python -m tests.bench.freetickets_gpu --out FILE.json [--quick] [--budget-s 240]
    python -m tests.bench.freetickets_gpu --quality --data NPZ

``--quick`` runs the same code, small, also on a CPU. JSON is written after every section.
NPZ is CIFAR-10 as ``tests.bench.cifar10`` packs it.
"""

import argparse
import copy
import json
import math
import tempfile
import time
from pathlib import Path
from statistics import mean, median, stdev

import torch

from models.core import device
from models.core.run import Run
from models.core.steps import FULL, Batch, cross_entropy, make_optimizer, make_step
from models.data import images, synthetic
from models.freetickets import ensemble, infer, masks, sparse
from models.freetickets import train as method
from models.freetickets.spec import FreeTicketsTrain
from models.freetickets.topology import Topology
from models.nets.build import build_net
from tests.bench import cifar10

ON = "cuda" if torch.cuda.is_available() else "cpu"


class Bench:
    """Results by section, written after each; sections stop when the budget is spent."""

    def __init__(self, out, budget_s):
        self.out, self.budget_s, self.started = Path(out), budget_s, time.perf_counter()
        self.found = {"device": device.describe(ON), "sections": {}}

    def left(self):
        return self.budget_s - (time.perf_counter() - self.started)

    def section(self, name, function, *args):
        if self.left() < 0:
            self.found["sections"][name] = "not reached: budget spent"
        else:
            began = time.perf_counter()
            try:
                self.found["sections"][name] = function(*args)
            except (RuntimeError, AssertionError) as error:
                self.found["sections"][name] = {"failed": str(error)[:2000]}
            print(f"{name}: {time.perf_counter() - began:.1f} s", flush=True)
        self.found["seconds"] = time.perf_counter() - self.started
        self.out.write_text(json.dumps(self.found, indent=1))


def sync():
    if ON == "cuda":
        torch.cuda.synchronize()


def timed_ms(call, rounds):
    """Median milliseconds of single calls, each waited for."""
    spent = []
    for _ in range(rounds):
        sync()
        began = time.perf_counter()
        call()
        sync()
        spent.append(1000 * (time.perf_counter() - began))
    return median(spent)


def spec_of(quick, **fields):
    size = {"depth": 10, "widen": 1} if quick else {"depth": 28, "widen": 10}
    base = {
        "kind": "freetickets.train",
        "model": {"name": "wide_resnet", **size},
        "data": {"dataset": "none"},
        "max_steps": 3000,
        "batch_size": 16 if quick else 128,
        "optimizer": {"nesterov": False, "warmup": 0},
        "update_interval": 500,
    }
    return FreeTicketsTrain.model_validate(base | fields)


def pieces(spec):
    device.seed_all(0)
    net = build_net(spec.model.model_dump(), 10).to(ON)
    net.to(memory_format=torch.channels_last)
    topology = Topology(net, spec.layers(3, 10, 32, 32), spec)
    topology.draw(0)
    return net, topology


def correctness(quick):
    """Updates on the device equal those on the CPU, bit for bit, ties included."""
    for seed in range(3):
        draw = torch.Generator().manual_seed(seed)
        shape = (64, 64, 3, 3) if quick else (640, 640, 3, 3)
        mask = masks.random_mask(math.prod(shape), math.prod(shape) // 7, draw).view(shape)
        weight = (torch.randn(shape, generator=draw) * mask).bfloat16().float()  # many ties
        wish = torch.rand(shape, generator=draw).bfloat16().float()
        for capped, regrow in ((False, True), (False, False)):
            a = masks.change(weight, mask, wish, 0.5, regrow_dropped=regrow, capped=capped)
            b = masks.change(
                weight.to(ON), mask.to(ON), wish.to(ON), 0.5, regrow_dropped=regrow, capped=capped
            )
            assert torch.equal(a.mask, b.mask.cpu())
            assert a.dropped == b.dropped
            assert int(a.regrown) == int(b.regrown)
    spec = spec_of(quick)
    net, topology = pieces(spec)
    optimizer = make_optimizer(net, spec.optimizer)
    topology.attach(optimizer)
    step = make_step(net, optimizer, cross_entropy, spec, ON)
    batch = batch_of(spec.batch_size)
    optimizer.param_groups[0]["lr"].fill_(0.1)
    for number in range(4):
        topology.dense_gradients = number == 2
        step(FULL, batch)
        if number == 2:
            topology.update(0.5, 0)
        for name, mask in topology.masks.items():
            assert int(mask.sum()) == topology.active[name]
            assert not topology.weights[name][~mask].any()
    return {"updates_equal_cpu": True, "zeros_stay_zero": True}


def batch_of(size):
    x = torch.randn(size, 3, 32, 32, device=ON).contiguous(memory_format=torch.channels_last)
    return Batch(x, torch.randint(10, (size,), device=ON))


def step_call(spec, masked):
    """A step as the trainer runs it: recorded as a CUDA graph on a GPU."""
    net, topology = pieces(spec)
    optimizer = make_optimizer(net, spec.optimizer)
    if masked:
        topology.attach(optimizer)
    step = make_step(net, optimizer, cross_entropy, spec, ON)
    batch = batch_of(spec.batch_size)
    if ON == "cuda":
        from models.core.graphs import GraphedStep

        step = GraphedStep(step, print)
    for _ in range(8):
        step(FULL, batch)
    return (lambda: step(FULL, batch)), topology, net


def mask_cost(quick):
    """Masked and plain steps interleaved; the update alone; shares at an interval of 1000."""
    spec = spec_of(quick)
    plain, _, _ = step_call(spec, False)
    masked, topology, net = step_call(spec, True)
    rounds = 3 if quick else 60
    spent = {"plain": [], "masked": []}
    for _ in range(rounds):
        for name, call in (("plain", plain), ("masked", masked)):
            spent[name].append(timed_ms(call, 1))
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    update = timed_ms(lambda: topology.update(0.5, 0), 2 if quick else 7)
    a, b = median(spent["plain"]), median(spent["masked"])
    return {
        "net": spec.model.model_dump(),
        "batch": spec.batch_size,
        "plain_step_ms": a,
        "masked_step_ms": b,
        "masks_share_of_step": (b - a) / a,
        "update_ms": update,
        "update_share_at_1000": update / (1000 * a),
        "total_share_at_1000": (b - a) / a + update / (1000 * a),
        "peak_bytes": torch.cuda.max_memory_allocated() if ON == "cuda" else None,
        "targets": {"total_share_at_1000": 0.02, "update_share_at_1000": 0.005},
    }


def members_of(spec, count):
    found = []
    for seed in range(count):
        device.seed_all(seed)
        net = build_net(spec.model.model_dump(), 10).to(ON)
        topology = Topology(net, spec.layers(3, 10, 32, 32), spec)
        topology.draw(seed)
        for _ in range(2):
            net(torch.randn(32, 3, 32, 32, device=ON))
        found.append(net.eval().to(memory_format=torch.channels_last))
    return found


@torch.inference_mode()
def inference(quick):
    """Three eager calls against the fastest way for the whole ensemble, folded, by batch."""
    spec, rows = spec_of(quick), []
    for precision in ("fp32", "bf16"):
        nets = members_of(spec, 3)
        folded = [infer.fold(net) for net in nets]
        if precision == "bf16":
            nets, folded = ([copy.deepcopy(n).bfloat16() for n in ns] for ns in (nets, folded))
        for size in (1, 8) if quick else (1, 8, 64, 256):
            x = batch_of(size).images.to(next(nets[0].parameters()).dtype)
            choice = infer.fastest(folded, x, 3 if quick else 15)
            eager = timed_ms(lambda x=x, nets=nets: [net(x) for net in nets], 3 if quick else 15)
            own = choice.milliseconds[choice.name]
            rows.append(
                {
                    "precision": precision,
                    "batch": size,
                    "eager_ms": eager,
                    "chosen": choice.name,
                    "chosen_ms": own,
                    "speedup": eager / own,
                    "ways_ms": choice.milliseconds,
                }
            )
    return {"net": spec.model.model_dump(), "rows": rows, "targets": {"batch<=8": 3.0, "256": 1.0}}


def tensor_cores(quick):
    """2:4 against dense on layers of capped masks, in half precision, by shape and batch."""
    shapes = [(64, 64)] if quick else [(768, 3072), (3072, 768), (1024, 1024), (4096, 4096)]
    rows = []
    for out, inputs in shapes:
        draw = torch.Generator().manual_seed(out)
        mask = masks.capped_mask(torch.Size((out, inputs)), out * inputs // 7, draw)
        weight = (torch.randn(out, inputs, generator=draw) * mask).to(ON)
        weight = weight.to(torch.float16 if ON == "cuda" else torch.float32)
        for batch in (64,) if quick else (64, 256, 2048, 8192):
            x = torch.randn(batch, inputs, device=ON, dtype=weight.dtype)
            found = sparse.time_24(weight, x, 2 if quick else 30)
            speedup = found.dense_ms / found.sparse_ms if found.sparse_ms else None
            rows.append(
                {"out": out, "in": inputs, "batch": batch, **found._asdict(), "speedup": speedup}
            )
    return {"rows": rows, "target": 1.2}


def wide_layers(quick):
    """Why: bytes and operations of the mask multiplication, and a bound from memory alone."""
    spec = spec_of(quick)
    _, topology = pieces(spec)
    open_weights = sum(topology.weights[n].numel() for n in topology.open_layers)
    grad = torch.randn(open_weights, device=ON)
    mask = torch.rand(open_weights, device=ON) < 0.2
    ms = timed_ms(lambda: grad.mul_(mask), 20)
    return {"open_weights": open_weights, "bytes": 9 * open_weights, "one_multiplication_ms": ms}


ARMS = {
    "A dense": {"variant": "dense", "members": 1, "cost": 1.0},
    "B dense ensemble": {"variant": "dense_ensemble", "members": 3, "cost": 3.0},
    "C dst": {"variant": "dst", "members": 3, "cost": 3.0},
    "D edst": {"variant": "edst", "members": 3, "cost": 1.8},
    "E edst q=0": {"variant": "edst", "members": 3, "cost": 1.8, "escape": {"q": 0.0}},
    "F static": {"variant": "static", "members": 3, "cost": 3.0},
    "G snapshot": {"variant": "snapshot", "members": 3, "cost": 1.8},
}


def load_data(path):
    if path is None:
        train = synthetic.blobs(256, classes=10, size=32, channels=3, seed=1)
        test = synthetic.blobs(100, classes=10, size=32, channels=3, seed=2)
        return images.from_tensors(list(train), list(test), [str(i) for i in range(10)], ON)
    return cifar10.load(path, ON)


def quality_arm(data, fields, quick, epochs, seed):
    """One arm with one seed: figures of the ensemble, tickets and wall seconds."""
    cost, rest = fields["cost"], {k: v for k, v in fields.items() if k != "cost"}
    batch = 32 if quick else 128
    base = max(4, epochs)
    size = {"depth": 10, "widen": 1} if quick else {"depth": 16, "widen": 4}
    spec = spec_of(
        quick,
        **rest,
        model={"name": "wide_resnet", **size},
        max_steps=None,
        epochs=max(9 if rest["variant"] == "edst" else 3, round(base * cost)),
        batch_size=batch,
        update_interval=min(2 if quick else 200, 1000),
        images={"augment": {"crop_padding": 4, "flip": True}},
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder)
        (run_dir / "resume").mkdir()
        with (run_dir / "events.jsonl").open("w") as events:
            run = Run(run_dir, events, device=ON, checkpoint_interval_s=1e9)
            training = method.prepare(spec, data, run)
            fitted = method.fit_tickets(training)
            tested = method.report.test_tickets(training, spec.tickets, fitted.steps)
    mixed = ensemble.mixture(tested.logs)
    found = ensemble.figures(mixed, tested.labels)._asdict()
    members = [ensemble.figures(logs, tested.labels).accuracy for logs in tested.logs]
    return {
        "seed": seed,
        "epochs": spec.epochs,
        **found,
        "member_accuracy": members,
        "disagreement": ensemble.off_diagonal(ensemble.disagreement(tested.logs)),
        "wall_s": fitted.clock.seconds,
        "step_ms": fitted.clock.median_ms("full"),
        "peak_bytes": fitted.clock.peak_bytes,
        "work": method.report.work(training, fitted),
    }


def quality(bench, data_path, quick, epochs, seeds):
    """All arms, seed by seed, so that a cut-off run keeps whole seeds."""
    data = load_data(data_path)
    rows = {}
    for seed in range(seeds):
        for name, fields in ARMS.items():
            bench.section(f"{name} / seed {seed}", quality_arm, data, fields, quick, epochs, seed)
            row = bench.found["sections"][f"{name} / seed {seed}"]
            if isinstance(row, dict) and "nll" in row:
                rows.setdefault(name, []).append(row)
    bench.section("summary", summary, rows)


def summary(rows):
    return {
        name: {
            key: {
                "mean": mean(r[key] for r in some),
                "sd": stdev(r[key] for r in some) if len(some) > 1 else None,
                "seeds": len(some),
            }
            for key in ("accuracy", "nll", "ece", "brier", "wall_s")
        }
        for name, some in rows.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="freetickets_gpu.json")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--epochs", type=int, default=10, help="epochs of one dense member")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget-s", type=float, default=240)
    options = parser.parse_args()
    bench = Bench(options.out, options.budget_s)
    device.tune(ON)
    bench.section("correctness", correctness, options.quick)
    if options.quality:
        quality(bench, options.data, options.quick, options.epochs, options.seeds)
        return
    bench.section("mask_cost", mask_cost, options.quick)
    bench.section("mask_bytes", wide_layers, options.quick)
    bench.section("inference", inference, options.quick)
    bench.section("tensor_cores", tensor_cores, options.quick)


if __name__ == "__main__":
    main()
