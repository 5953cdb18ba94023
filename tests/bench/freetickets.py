"""FreeTickets on a CPU: mask updates against the authors' full sorts, CSR layers, masks in a step.

    python -m tests.bench.freetickets [--quick] [--out FILE.json]

Ours and the other way run interleaved on the same work; the answers are compared. One thread;
speedups are ratios of median CPU seconds.
"""

import argparse
import json
import platform
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch
from torch.nn import functional

from models.core import device
from models.freetickets import infer, masks, sparse
from models.freetickets.densities import counts, densities, layers_of
from models.freetickets.spec import FreeTicketsTrain
from models.freetickets.topology import Topology
from models.nets.build import build_net
from models.nets.spec import WideResNet
from models.supervised.steps import FULL, Batch, cross_entropy, make_optimizer, make_step


def interleaved(calls, rounds):
    """Wall and CPU milliseconds of each call: minimum and median over the rounds."""
    wall, cpu = ({name: [] for name in calls} for _ in range(2))
    for _ in range(rounds):
        for name, call in calls.items():
            began, used = time.perf_counter(), time.process_time()
            call()
            wall[name].append(1000 * (time.perf_counter() - began))
            cpu[name].append(1000 * (time.process_time() - used))
    return {
        name: {
            "wall_ms": {"min": min(wall[name]), "median": median(wall[name])},
            "cpu_ms": {"min": min(cpu[name]), "median": median(cpu[name])},
        }
        for name in calls
    }


def speedup(figures, slow, fast):
    return figures[slow]["cpu_ms"]["median"] / figures[fast]["cpu_ms"]["median"]


def full_sort(weight, mask, gradient, rate):
    """Drop and grow by sorting whole layers, as the authors' code does."""
    flat, k = mask.flatten(), -(-int(mask.sum() * rate * 1000) // 1000)
    order = weight.abs().flatten().sort(stable=True).indices
    zeros = int((~flat).sum())
    kept = flat.clone()
    kept[order[: zeros + k]] = False
    order = (gradient.abs().flatten() * ~kept).sort(descending=True, stable=True).indices
    kept[order[:k]] = True
    return kept.view_as(mask)


def updates(quick):
    """One update of all masked weights of a wide net at S = .8, p = .5."""
    net = WideResNet(name="wide_resnet", depth=16, widen=2 if quick else 4)
    layers = layers_of(net, 3, 10, 32, 32)
    active = counts(layers, densities(layers, 0.8, "erk"), 0.8)
    draw, work = torch.Generator().manual_seed(0), []
    for layer, k in zip(layers, active, strict=True):
        if k < layer.size:
            mask = masks.random_mask(layer.size, k, draw)
            weight = torch.randn(layer.size, generator=draw) * mask
            work.append((weight, mask, torch.randn(layer.size, generator=draw)))
    for w, m, g in work:
        ours = masks.change(w, m, g.abs(), 0.5, regrow_dropped=True).mask
        assert torch.equal(ours, full_sort(w, m, g, 0.5))
    calls = {
        "ours": lambda: [masks.change(w, m, g.abs(), 0.5, regrow_dropped=True) for w, m, g in work],
        "full_sort": lambda: [full_sort(w, m, g, 0.5) for w, m, g in work],
    }
    figures = interleaved(calls, 2 if quick else 5)
    ratio = speedup(figures, "full_sort", "ours")
    return {"weights": sum(len(w) for w, _, _ in work), **figures, "speedup": ratio}


def csr(quick):
    """A layer of 768 x 3072, dense against CSR, by sparsity and batch."""
    rows = []
    out, inputs = (96, 384) if quick else (768, 3072)
    for sparsity in (0.8, 0.9, 0.95, 0.99):
        draw = torch.Generator().manual_seed(0)
        mask = masks.random_mask(out * inputs, round((1 - sparsity) * out * inputs), draw)
        weight = (torch.randn(out * inputs, generator=draw) * mask).view(out, inputs)
        layer = sparse.CsrLinear(weight, None)
        for batch in (1, 16, 64, 256, 1024):
            x = torch.randn(batch, inputs, generator=draw)
            torch.testing.assert_close(layer(x), x @ weight.T, rtol=1e-4, atol=1e-3)
            calls = {
                "dense": lambda x=x, weight=weight: functional.linear(x, weight),
                "csr": lambda x=x, layer=layer: layer(x),
            }
            figures = interleaved(calls, 5 if quick else 25)
            ratio = speedup(figures, "dense", "csr")
            rows.append({"sparsity": sparsity, "batch": batch, **figures, "speedup": ratio})
    return {"shape": [out, inputs], "rows": rows, "target": "2 at S >= .9 and batch >= 16"}


@torch.inference_mode()
def layers(quick):
    """A ticket of ResNet-50 for 32 px, S = .9: each layer as its timing says, and the whole net."""
    spec = FreeTicketsTrain.model_validate(
        {
            "kind": "freetickets.train",
            "model": {"name": "resnet50", "width": 16 if quick else 64},
            "data": {"dataset": "none"},
            "sparsity": 0.9,
        }
    )
    device.seed_all(0)
    net = build_net(spec.model.model_dump(), 10)
    Topology(net, layers_of(spec.model, 3, 10, 32, 32), spec).draw(0)
    for _ in range(3):
        net(torch.randn(8, 3, 32, 32))
    folded, rows = infer.fold(net.eval()), []
    for batch in (1, 16):
        x = torch.randn(batch, 3, 32, 32)
        chosen, timings = sparse.choose_layers(folded, x, 3 if quick else 9)
        torch.testing.assert_close(chosen(x), folded(x), rtol=1e-3, atol=1e-4)
        calls = {
            "dense": lambda x=x: folded(x),
            "chosen": lambda x=x, chosen=chosen: chosen(x),
        }
        figures = interleaved(calls, 3 if quick else 9)
        kept = Counter(f"{row.kept}: {row.reason}" for row in timings)
        contents = {"batch": batch, "layers": dict(kept), **figures}
        rows.append({**contents, "speedup": speedup(figures, "dense", "chosen")})
    return {"net": spec.model.model_dump(), "sparsity": 0.9, "rows": rows}


def masked_step(quick):
    """A training step with and without masks, and what an update adds at an interval of 1000."""
    spec = FreeTicketsTrain.model_validate(
        {
            "kind": "freetickets.train",
            "model": {"name": "wide_resnet", "depth": 16, "widen": 1 if quick else 2},
            "data": {"dataset": "none"},
            "max_steps": 9000,
        }
    )
    steps = {}
    batch = Batch(torch.randn(32, 3, 32, 32), torch.randint(10, (32,)))
    for name in ("plain", "masked"):
        device.seed_all(0)
        net = build_net(spec.model.model_dump(), 10)
        topology = Topology(net, layers_of(spec.model, 3, 10, 32, 32), spec)
        topology.draw(0)
        optimizer = make_optimizer(net, spec.optimizer)
        if name == "masked":
            topology.attach(optimizer)
        step = make_step(net, optimizer, cross_entropy, spec, "cpu")
        steps[name] = lambda step=step: step(FULL, batch)
    figures = interleaved(steps, 3 if quick else 15)
    update = interleaved({"update": lambda: topology.update(0.5, 0)}, 3)["update"]
    plain = figures["plain"]["cpu_ms"]["median"]
    share = (figures["masked"]["cpu_ms"]["median"] - plain) / plain
    return {
        "net": spec.model.model_dump(),
        "batch": 32,
        **figures,
        "update": update,
        "masks_share_of_step": share,
        "update_share_at_1000": update["cpu_ms"]["median"] / (1000 * plain),
    }


def inference(quick):
    """Three folded members every way, against three plain calls."""
    nets = []
    for seed in range(3):
        device.seed_all(seed)
        spec = {"name": "wide_resnet", "depth": 16, "widen": 1 if quick else 2}
        nets.append(build_net(spec, 10).eval())
    folded, rows = [infer.fold(net) for net in nets], []
    for batch in (1, 8) if quick else (1, 8, 64):
        x = torch.randn(batch, 3, 32, 32)
        with torch.inference_mode():
            every = infer.ways(folded)
            calls = {name: (lambda way=way, x=x: way(x)) for name, way in every.items()}
            calls["plain"] = lambda x=x: [net(x) for net in nets]
            rows.append({"batch": batch, **interleaved(calls, 3 if quick else 10)})
    return {"rows": rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sections = (updates, csr, layers, masked_step, inference)
    contents = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"cpu": platform.processor() or platform.machine(), **device.describe("cpu")},
        "sections": {section.__name__: section(options.quick) for section in sections},
    }
    text = json.dumps(contents, indent=1)
    if options.out:
        Path(options.out).write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
