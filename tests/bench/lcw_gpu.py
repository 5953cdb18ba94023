"""The Cramer-Wold kernel and whole training steps on a GPU.

    python -m tests.bench.lcw_gpu --out FILE.json [--quick] [--budget-s 150]

Times a few tiles of the fused kernel, each with its error against float64, then the best one beside
its peers and the bounds of the chip, awkward shapes, samples that nearly agree, and training steps.
``--quick`` walks the same code in small, on a CPU. Generators are compared by lcw_quality.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from models.core.graphs import GraphedStep
from models.lcw import distance, fused, nets, objectives
from models.lcw.distance import normality, silverman, two_sample
from models.lcw.fields import Architecture, Phase1
from models.lcw.stages import Inputs
from tests.bench.lcw_forms import cdist_form, gram_form, keep, machine

# of an H100 SXM, dense, in operations a second; passes that a float32 product needs in each format
PEAKS = {"fp32": (66.9e12, 1), "tf32": (494.7e12, 3), "bf16": (989.4e12, 3)}
PRODUCTS = 4.5  # n x n x D products: own and cross, value and gradient; half of y's own values
TILES = (fused.Tile(64, 64, 4, 2), fused.Tile(64, 32, 4, 3), fused.Tile(64, 64, 4, 3))
CASES = ((300, 517, 5), (1000, 333, 64), (257, 1025, 100), (512, 512, 256))


def seconds(work, device, rounds=7):
    """Least and median seconds of some rounds, after one to warm up."""
    figures = []
    for _ in range(rounds + 1):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        figures.append(time.perf_counter() - start)
    figures = sorted(figures[1:])
    return {"min_s": figures[0], "median_s": figures[len(figures) // 2], "rounds": rounds}


def _wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


def points(n, d, device):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, d, generator=g), 1.1 * torch.randn(n, d, generator=g)
    return x.to(device).requires_grad_(), y.to(device)


def both(form, x, y):
    value = form(x, y)
    return value, torch.autograd.grad(value, x)[0]


@contextmanager
def tile(chosen):
    """Fix the tile of the fused kernel."""
    kept, fused.tile_of = fused.tile_of, lambda _: chosen
    try:
        yield
    finally:
        fused.tile_of = kept


def errors(x, y, gamma, mode="asymptotic", **options):
    """Relative errors of value and gradient against the float64 blocks."""
    wide = x.detach().double().requires_grad_()
    expected = both(lambda a, b: two_sample(a, b, gamma, mode, **options), wide, y.double())
    figures = both(lambda a, b: two_sample(a, b, gamma, mode, **options), x, y)
    gap = (figures[1] - expected[1]).norm() / expected[1].norm()
    return {"value": abs(figures[0].item() / expected[0].item() - 1), "gradient": gap.item()}


def correctness(device):
    """Shapes that do not divide, both modes, all options; repeats bit for bit."""
    rows = []
    cases = [(*case, mode, device) for case in CASES for mode in ("asymptotic", "exact")]
    if device == "cpu":
        return {"rows": [row for case in cases for row in _check(case)], "fused": False}
    with _processes() as pool:  # each compiles its own kernels
        for figures in pool.map(_check, cases):
            rows += figures
    x, _ = points(64, 64, device)
    return {"rows": rows, "fused": fused.fits(x, distance.profile.Profile())}


def _check(case):
    n, m, d, mode, device = case
    rows = []
    for options in ({}, {"include_yy": False}, {"statistic": "u"}):
        x, y = points(max(n, m), d, device)
        x, y = x[:n].detach().requires_grad_(), y[:m]
        figures = errors(x, y, silverman(1.0, n), mode, **options)
        rows.append({"n": n, "m": m, "d": d, "mode": mode, **options, **figures})
        assert figures["value"] < 2e-5, rows[-1]
        assert figures["gradient"] < 2e-5, rows[-1]
    first, again = (both(lambda a, b: two_sample(a, b, 0.1, mode), x, y) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    near = normality(x.detach()), normality(x.detach().double())
    assert abs(near[0] / near[1] - 1) < 1e-4
    return rows


def delicate(device):
    """Errors where terms cancel: samples that nearly agree, samples far from the origin."""
    rows = []
    for d in (16, 64, 128):
        g = torch.Generator().manual_seed(0)
        y, shift = (torch.randn(1024, d, generator=g) for _ in range(2))
        pairs = {"near": y + 1e-3 * shift, "close": y + 1e-1 * shift, "far": 30 + shift}
        for name, x in pairs.items():
            target = y + 30 if name == "far" else y
            figures = x.to(device).requires_grad_(), target.to(device)
            rows.append({"d": d, "case": name, **errors(*figures, silverman(1.0, 1024))})
    return rows


def _processes():
    return ProcessPoolExecutor(14, mp_context=get_context("spawn"))


def _compile(chosen, d):
    """Leave the compiled kernels of a tile in the cache on disk."""
    _try(chosen, *points(1024, d, "cuda"), 0.1, "cuda")


def sweep(n, d, device, out, results, until):
    """Times and errors of the tiles at one size; the best of them."""
    x, y = points(n, d, device)
    gamma = silverman(1.0, n)
    section = {"n": n, "d": d, "tiles": []}
    results["sweep"] = section
    tiles = TILES if device == "cuda" else TILES[:1]
    if device == "cuda":
        start = time.monotonic()
        with _processes() as pool:
            list(pool.map(_compile, tiles, [d] * len(tiles)))
        section["compiled_s"] = time.monotonic() - start
    for chosen in tiles:
        if time.monotonic() > until:
            break
        section["tiles"].append(_try(chosen, x, y, gamma, device))
        print(section["tiles"][-1], flush=True)
        keep(out, results)
    good = [t for t in section["tiles"] if t.get("gradient", 1) < 1e-5 and t["value"] < 1e-5]
    if not good:
        return fused.Tile()
    section["best"] = min(good, key=lambda t: t["min_s"])
    return fused.Tile(*section["best"]["tile"])


def bounds(n, d, device):
    """Least seconds of the products of the Gram form, by number format: peak and as measured."""
    operations, side = PRODUCTS * 2 * n * n * d, 8192 if device == "cuda" else 256
    figures = {"operations": operations}
    a = torch.randn(side, side, device=device)
    for name, (peak, passes) in PEAKS.items():
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        factor = a.bfloat16() if name == "bf16" else a
        taken = seconds(lambda factor=factor: factor @ factor, device, 5)["min_s"]
        rate = 2 * side**3 / taken
        figures[name] = {
            "passes": passes,
            "peak_s": passes * operations / peak,
            "measured_per_s": rate,
            "measured_s": passes * operations / rate,
        }
    torch.backends.cuda.matmul.allow_tf32 = False
    return figures


def _try(chosen, x, y, gamma, device):
    row = {"tile": list(chosen)}
    try:
        with tile(chosen):
            row |= errors(x, y, gamma)
            row |= seconds(lambda: both(lambda a, b: two_sample(a, b, gamma), x, y), device)
    except Exception as error:  # a tile that does not compile is a result
        row["failed"] = f"{type(error).__name__}: {error}"[:300]
    return row


def peers(n, d, device, chosen):
    """Ours in three forms beside the authors' two, in turn."""
    x, y = points(n, d, device)
    gamma = silverman(1.0, n)
    forms = {
        "ours": lambda a, b: two_sample(a, b, gamma),
        "ours_exact": lambda a, b: two_sample(a, b, gamma, "exact"),
        "ours_without_yy": lambda a, b: two_sample(a, b, gamma, include_yy=False),
        "cdist": lambda a, b: cdist_form(a, b, gamma),
        "gram": lambda a, b: gram_form(a, b, gamma),
    }
    figures = {}
    with tile(chosen):
        for name, form in forms.items():
            try:
                if device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                    before = torch.cuda.memory_allocated()
                figures[name] = seconds(lambda form=form: both(form, x, y), device)
                if device == "cuda":
                    extra = torch.cuda.max_memory_allocated() - before
                    figures[name]["extra_mib"] = extra / 2**20
            except torch.OutOfMemoryError as error:
                figures[name] = {"failed": str(error)[:200]}
    ours = figures["ours"]["min_s"]
    ratios = {name: row["min_s"] / ours for name, row in figures.items() if "min_s" in row}
    return {"n": n, "d": d, "forms": figures, "over_ours": ratios}


def steps(device, rounds):
    """Images a second of training steps: MLP on 28 x 28 and convolutions on 32 x 32, n = 256."""
    figures = {}
    for name, shape in (("mlp_28", nets.ImageShape(1, 28)), ("conv_32", nets.ImageShape(3, 32))):
        arch = Architecture(latent_dim=8 if shape.channels == 1 else 48)
        batch = torch.rand(256, shape.channels, shape.side, shape.side, device=device)
        std = batch.std().item()
        losses = {
            "ours": lambda x, z, y, std=std: objectives.autoencoder(Phase1(), x, z, y, std),
            "cdist": lambda x, z, y, std=std: (
                torch.log(cdist_form(y.flatten(1), x.flatten(1), silverman(std, len(x))))
                + torch.log(normality(z))
            ),
        }
        for kind, loss in losses.items():
            torch.manual_seed(0)
            built = nets.build(arch.resolve(shape.side, shape.channels), shape)
            for net in built:
                net.to(device)
            figures[f"{name}_phase1_{kind}"] = _images_per_s(built, batch, loss, device, rounds)
            target = torch.randn(256, arch.latent_dim, device=device)
            draws = torch.randn(256, arch.latent_dim, device=device)
            match = {"ours": two_sample, "cdist": cdist_form}[kind]
            figures[f"{name}_phase2_{kind}"] = _latents_per_s(
                built.generator, draws, target, match, device, rounds
            )
    return figures


def _images_per_s(built, batch, loss, device, rounds):
    nets = (built.encoder, built.decoder)

    def value(given):
        z = built.encoder(given.rows)
        return loss(given.rows, z, built.decoder(z))

    return _rates(nets, Inputs(batch, batch.new_empty(0)), value, device, rounds)


def _latents_per_s(net, draws, target, match, device, rounds):
    return _rates(
        (net,),
        Inputs(target, draws),
        lambda given: match(net(given.draws), given.rows, 0.1),
        device,
        rounds,
    )


def _rates(nets, given, loss, device, rounds):
    """Rows a second, step by step and as a CUDA graph."""
    on_gpu = device == "cuda"
    optimizer = torch.optim.Adam([p for net in nets for p in net.parameters()], capturable=on_gpu)

    def step(_, given):
        optimizer.zero_grad(set_to_none=False)
        value = loss(given)
        value.backward()
        optimizer.step()
        return value.detach()

    ways = {"eager": step} | ({"graph": GraphedStep(step, print)} if on_gpu else {})
    figures = {}
    for name, way in ways.items():
        for _ in range(5):
            way("step", given)
        taken = seconds(partial(way, "step", given), device, rounds)["median_s"]
        figures[name] = len(given.rows) / taken
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--budget-s", type=float, default=150)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert options.quick or device == "cuda", "no GPU: give --quick"
    started = time.monotonic()
    until = started + options.budget_s
    results = {"machine": machine(device)}
    size = (512, 32) if device == "cpu" else (16_384, 128)
    chosen = sweep(*size, device, options.out, results, started + options.budget_s / 2)
    results["peers"] = []
    sections = [
        *(partial(_peers, results, n, d, device, chosen) for n, d in (size, (size[0] // 4, 64))),
        partial(_bounds, results, size, device),
        lambda: results.update(correctness=correctness(device)),
        lambda: results.update(delicate=delicate(device)),
        lambda: results.update(images_per_s=steps(device, 3 if device == "cpu" else 50)),
    ]
    for section in sections:
        if time.monotonic() > until:
            print("the budget ends here")
            break
        section()
        keep(options.out, results)
        print(f"{time.monotonic() - started:.0f} s", flush=True)


def _peers(results, n, d, device, chosen):
    results["peers"].append(peers(n, d, device, chosen))
    print(n, d, results["peers"][-1]["over_ours"], flush=True)


def _bounds(results, size, device):
    """Beside the time of the kernel at this size, in the same run."""
    figures = bounds(*size, device)
    taken = results["peers"][0]["forms"]["ours"]["min_s"]
    for name in PEAKS:
        for kind in ("peak", "measured"):
            figures[name][f"share_of_{kind}"] = figures[name][f"{kind}_s"] / taken
    results["bounds"] = figures
    print({name: round(figures[name]["share_of_peak"], 3) for name in PEAKS}, flush=True)


if __name__ == "__main__":
    main()
