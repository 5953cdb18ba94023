"""FreeTickets on a GPU: correctness, ensemble inference, 2:4 layers, cost of masks.

    python -m tests.bench.freetickets_gpu --out FILE.json [--quick] [--budget-s 240]
        [--sections correctness,inference,tensor_cores,mask_cost,mask_bytes]

``--quick`` runs the same code, small, also on a CPU. JSON is written after every section.
"""

import argparse
import copy
import json
import math
import time
import traceback
from pathlib import Path
from statistics import median

import torch

from models.core import device
from models.freetickets import infer, masks, sparse, timing
from models.freetickets.densities import layers_of
from models.freetickets.spec import FreeTicketsTrain
from models.freetickets.topology import Topology
from models.nets.build import build_net
from models.supervised.steps import FULL, Batch, cross_entropy, make_optimizer, make_step

ON = "cuda" if torch.cuda.is_available() else "cpu"


class Bench:
    """Results by section, written after each; sections stop when the budget is spent."""

    def __init__(self, out, budget_s):
        self.out, self.budget_s, self.started = Path(out), budget_s, time.perf_counter()
        self.figures = {"device": device.describe(ON), "sections": {}}

    def left(self):
        return self.budget_s - (time.perf_counter() - self.started)

    def section(self, name, function, *args):
        """One section; a failure is kept with its place, and the next section runs."""
        if self.left() < 0:
            figures = "not reached: budget spent"
        else:
            began = time.perf_counter()
            try:
                figures = function(*args)
            except Exception as error:
                where = traceback.format_exc().splitlines()[-8:]
                figures = {"failed": f"{type(error).__name__}: {error}"[:2000], "where": where}
            print(f"{name}: {time.perf_counter() - began:.1f} s", flush=True)
        self.figures["sections"][name] = figures
        self.write()
        return figures

    def write(self):
        self.figures["seconds"] = time.perf_counter() - self.started
        self.out.write_text(json.dumps(self.figures, indent=1) + "\n")


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
    topology = Topology(net, layers_of(spec.model, 3, 10, 32, 32), spec)
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
    figures = []
    for seed in range(count):
        device.seed_all(seed)
        net = build_net(spec.model.model_dump(), 10).to(ON)
        topology = Topology(net, layers_of(spec.model, 3, 10, 32, 32), spec)
        topology.draw(seed)
        for _ in range(2):
            net(torch.randn(32, 3, 32, 32, device=ON))
        figures.append(net.eval().to(memory_format=torch.channels_last))
    return figures


@torch.inference_mode()
def inference(quick):
    """Three eager calls against the fastest way for the whole ensemble, folded, by batch."""
    spec, rows = spec_of(quick), []
    rounds = 3 if quick else 25
    made = members_of(spec, 3)
    for precision in (torch.bfloat16, torch.float32):
        nets = [copy.deepcopy(net).to(precision) for net in made]
        folded = [infer.fold(net).to(precision) for net in made]
        for size in (1, 8) if quick else (1, 2, 4, 8, 64, 256):
            x = batch_of(size).images.to(precision)
            choice = infer.fastest(folded, x, 3 if quick else 15)
            sequence = lambda x, nets=nets: torch.stack([net(x) for net in nets])  # noqa: E731
            expected, figures = sequence(x).float(), choice.run(x).float()
            gap = float((figures.log_softmax(2) - expected.log_softmax(2)).abs().max())
            both = timing.medians({"eager": sequence, "chosen": choice.run}, x, rounds)
            rows.append(
                {
                    "precision": str(precision),
                    "batch": size,
                    "eager_ms": both["eager"],
                    "chosen": choice.name,
                    "chosen_ms": both["chosen"],
                    "speedup": both["eager"] / both["chosen"],
                    "largest_log_probability_gap": gap,
                    "ways_ms": choice.milliseconds,
                    "left_out": choice.left_out,
                }
            )
            print(rows[-1], flush=True)
    return {"net": spec.model.model_dump(), "rows": rows, "targets": {"batch<=8": 3.0, "256": 1.0}}


def tensor_cores(quick):
    """2:4 against dense on layers of capped masks, as CUDA graphs, by format, shape and batch."""
    shapes = [(64, 64)] if quick else [(768, 3072), (1024, 1024), (4096, 4096), (8192, 8192)]
    rows = []
    for out, inputs in shapes:
        draw = torch.Generator(ON).manual_seed(out)
        rank = torch.rand(out, inputs // 4, 4, generator=draw, device=ON).argsort(2)
        mask = (rank < 2).view(out, inputs)
        weight = torch.randn(out, inputs, generator=draw, device=ON) * mask
        weight = weight.to(torch.bfloat16)
        for batch in (64,) if quick else (64, 512, 4096, 16384):
            x = torch.randn(batch, inputs, device=ON, dtype=weight.dtype)
            for library in ("cusparselt", "cutlass"):
                torch.sparse.SparseSemiStructuredTensor._FORCE_CUTLASS = library == "cutlass"
                figures = sparse.time_24(weight, x, 2 if quick else 20)
                ratio = figures.dense_ms / figures.sparse_ms if figures.sparse_ms else None
                shape = {"out": out, "in": inputs, "batch": batch, "library": library}
                rows.append({**shape, **figures._asdict(), "speedup": ratio})
    return {"rows": rows, "target": 1.2}


def mask_bytes(quick):
    """Why: bytes and operations of the mask multiplication, and a bound from memory alone."""
    spec = spec_of(quick)
    _, topology = pieces(spec)
    open_weights = sum(topology.weights[n].numel() for n in topology.open_layers)
    grad = torch.randn(open_weights, device=ON)
    mask = torch.rand(open_weights, device=ON) < 0.2
    ms = timed_ms(lambda: grad.mul_(mask), 20)
    return {"open_weights": open_weights, "bytes": 9 * open_weights, "one_multiplication_ms": ms}


SECTIONS = {
    "correctness": correctness,
    "inference": inference,
    "tensor_cores": tensor_cores,
    "mask_cost": mask_cost,
    "mask_bytes": mask_bytes,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="freetickets_gpu.json")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--budget-s", type=float, default=240)
    options = parser.parse_args()
    bench = Bench(options.out, options.budget_s)
    device.tune(ON)
    for name in options.sections.split(","):
        bench.section(name, SECTIONS[name], options.quick)


if __name__ == "__main__":
    main()
