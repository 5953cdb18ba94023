"""The Cramer-Wold kernel and whole trainings on a GPU.

    python -m tests.bench.lcw_gpu --out FILE.json [--quick] [--budget-s 240]
    python -m tests.bench.lcw_gpu --quality --data PATH... --out FILE.json [--budget-s 500]

Times the tiles of the fused kernel, each with its error against float64, checks awkward
shapes, then times the kernel beside its peers and the bound of the chip, and training steps.
``--quality`` compares generators over seeds: PATH is an npz of tests/bench/cifar10.py, or a folder
with the test files of MNIST. ``--quick`` walks the same code in small, on a CPU.
"""

import argparse
import gzip
import math
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from models.core.graphs import GraphedStep
from models.core.run import Run
from models.data import images
from models.data.arrays import Labelled, split
from models.lcw import distance, evaluate, fused, nets, objectives, setup
from models.lcw.distance import normality, silverman, two_sample
from models.lcw.parts import Architecture, Phase1
from models.lcw.spec import LcwTrain
from models.lcw.stages import Inputs, noise
from tests.bench import cifar10
from tests.bench.lcw_forms import cdist_form, gram_form, keep, machine

TF32_PEAK, FP32_PEAK = 494.7e12, 66.9e12  # of an H100 SXM, dense, in operations a second
PRODUCTS = 4.5  # n x n x D products: own and cross, value and gradient; half of y's own values
TILES = tuple(
    fused.Tile(*shape, precision)
    for shape, precision in (
        ((64, 64, 4, 2), "bf16x3"),
        ((128, 64, 8, 2), "bf16x3"),
        ((64, 32, 4, 3), "bf16x3"),
        ((64, 64, 4, 2), "bf16x6"),
        ((64, 64, 4, 2), "tf32x3"),
        ((64, 64, 4, 2), "tf32"),  # less exact, faster
        ((64, 64, 4, 2), "ieee"),  # the units of fp32
    )
)
CASES = ((300, 517, 5), (1000, 333, 64), (257, 1025, 100), (512, 512, 256))
PEERS = ("cwae", "wae_mmd")
VARIANTS = {
    "lcw_full_reference": {"reference": "full"},
    "lcw_u": {"statistic": "u"},
    "lcw_batch_2048": {"batch_size": 2048},
    "lcw_exact": {"phi": "exact"},
    "lcw_full_u_2048": {"reference": "full", "statistic": "u", "batch_size": 2048},
}


def seconds(work, device, rounds=7):
    """Least and median seconds of some rounds, after one to warm up."""
    found = []
    for _ in range(rounds + 1):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        found.append(time.perf_counter() - start)
    found = sorted(found[1:])
    return {"min_s": found[0], "median_s": found[len(found) // 2], "rounds": rounds}


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
    found = both(lambda a, b: two_sample(a, b, gamma, mode, **options), x, y)
    gap = (found[1] - expected[1]).norm() / expected[1].norm()
    return {"value": abs(found[0].item() / expected[0].item() - 1), "gradient": gap.item()}


def correctness(device):
    """Shapes that do not divide, both modes, all options; repeats bit for bit."""
    rows = []
    cases = [(*case, mode, device) for case in CASES for mode in ("asymptotic", "exact")]
    if device == "cpu":
        return {"rows": [row for case in cases for row in _check(case)], "fused": False}
    with _processes() as pool:  # each compiles its own kernels
        for found in pool.map(_check, cases):
            rows += found
    x, _ = points(64, 64, device)
    return {"rows": rows, "fused": fused.fits(x, distance.profile.Profile())}


def _check(case):
    n, m, d, mode, device = case
    rows = []
    for options in ({}, {"own_y": False}, {"statistic": "u"}):
        x, y = points(max(n, m), d, device)
        x, y = x[:n].detach().requires_grad_(), y[:m]
        found = errors(x, y, silverman(1.0, n), mode, **options)
        rows.append({"n": n, "m": m, "d": d, "mode": mode, **options, **found})
        assert found["value"] < 2e-5, rows[-1]
        assert found["gradient"] < 2e-5, rows[-1]
    first, again = (both(lambda a, b: two_sample(a, b, 0.1, mode), x, y) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    near = normality(x.detach()), normality(x.detach().double())
    assert abs(near[0] / near[1] - 1) < 1e-4
    return rows


def delicate(device):
    """Errors where terms cancel: samples that nearly agree, samples far from the origin."""
    rows = []
    for precision in ("tf32x3", "bf16x6", "bf16x3") if device == "cuda" else ("blocks",):
        with tile(fused.Tile(64, 64, 4, 2, precision)):
            for d in (16, 64, 128):
                g = torch.Generator().manual_seed(0)
                y, shift = (torch.randn(1024, d, generator=g) for _ in range(2))
                pairs = {"near": y + 1e-3 * shift, "close": y + 1e-1 * shift, "far": 30 + shift}
                for name, x in pairs.items():
                    target = y + 30 if name == "far" else y
                    found = x.to(device).requires_grad_(), target.to(device)
                    told = errors(*found, silverman(1.0, 1024), own_y=True)
                    rows.append({"precision": precision, "d": d, "case": name, **told})
    return rows


def _processes():
    return ProcessPoolExecutor(14, mp_context=get_context("spawn"))


def _compile(chosen, d):
    """Leave the compiled kernels of a tile in the cache on disk."""
    _try(chosen, *points(1024, d, "cuda"), 0.1, "cuda")


def sweep(n, d, device, out, results, until):
    """Times and errors of the tiles at one size; then peers at the best."""
    x, y = points(n, d, device)
    gamma, operations = silverman(1.0, n), PRODUCTS * 2 * n * n * d
    section = {"n": n, "d": d, "operations": operations, "tiles": []}
    results["sweep"] = section
    side = 8192 if device == "cuda" else 256
    a = torch.randn(side, side, device=device)
    for name, tf32 in (("tf32", True), ("fp32", False)):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        taken = seconds(lambda: a @ a, device, 5)["min_s"]
        section[f"measured_{name}_per_s"] = 2 * side**3 / taken
    section["bound_s"] = {
        "tf32x3_peak": 3 * operations / TF32_PEAK,
        "fp32_peak": operations / FP32_PEAK,
        "tf32x3_measured": 3 * operations / section["measured_tf32_per_s"],
        "fp32_measured": operations / section["measured_fp32_per_s"],
    }
    if device == "cuda":
        with _processes() as pool:
            list(pool.map(_compile, TILES, [d] * len(TILES)))
    for chosen in TILES[:1] if device == "cpu" else TILES:
        if time.monotonic() > until:
            break
        section["tiles"].append(_try(chosen, x, y, gamma, device))
        print(section["tiles"][-1], flush=True)
        keep(out, results)
    good = [t for t in section["tiles"] if t.get("gradient", 1) < 1e-5 and t["value"] < 1e-5]
    if not good:
        return fused.Tile()
    best = min(good, key=lambda t: t["min_s"])
    section["best"] = best
    section["share_of_bound"] = {k: v / best["min_s"] for k, v in section["bound_s"].items()}
    keep(out, results)
    return fused.Tile(*best["tile"])


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
    torch.backends.cuda.matmul.allow_tf32 = False
    forms = {
        "ours": lambda a, b: two_sample(a, b, gamma),
        "ours_exact": lambda a, b: two_sample(a, b, gamma, "exact"),
        "ours_without_yy": lambda a, b: two_sample(a, b, gamma, own_y=False),
        "cdist": lambda a, b: cdist_form(a, b, gamma),
        "gram": lambda a, b: gram_form(a, b, gamma),
    }
    found = {}
    with tile(chosen):
        for name, form in forms.items():
            try:
                if device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                    before = torch.cuda.memory_allocated()
                found[name] = seconds(lambda form=form: both(form, x, y), device)
                if device == "cuda":
                    extra = torch.cuda.max_memory_allocated() - before
                    found[name]["extra_mib"] = extra / 2**20
            except torch.OutOfMemoryError as error:
                found[name] = {"failed": str(error)[:200]}
    ours = found["ours"]["min_s"]
    ratios = {name: row["min_s"] / ours for name, row in found.items() if "min_s" in row}
    return {"n": n, "d": d, "forms": found, "over_ours": ratios}


def steps(device, rounds):
    """Images a second of training steps: MLP on 28 x 28 and convolutions on 32 x 32, n = 256."""
    found = {}
    for name, shape in (("mlp_28", nets.Shape(1, 28)), ("conv_32", nets.Shape(3, 32))):
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
            found[f"{name}_phase1_{kind}"] = _images_per_s(built, batch, loss, device, rounds)
            target = torch.randn(256, arch.latent_dim, device=device)
            draws = torch.randn(256, arch.latent_dim, device=device)
            match = {"ours": two_sample, "cdist": cdist_form}[kind]
            found[f"{name}_phase2_{kind}"] = _latents_per_s(
                built.generator, draws, target, match, device, rounds
            )
    return found


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
    found = {}
    for name, way in ways.items():
        for _ in range(5):
            way("step", given)
        taken = seconds(partial(way, "step", given), device, rounds)["median_s"]
        found[name] = len(given.rows) / taken
    return found


def read(path, device):
    """CIFAR-10's images, or MNIST's test images split in training and test."""
    if path.is_file():
        return cifar10.load(path, device)
    found = []
    for name, offset in (("t10k-images-idx3-ubyte.gz", 16), ("t10k-labels-idx1-ubyte.gz", 8)):
        raw = gzip.decompress((path / name).read_bytes())
        found.append(np.frombuffer(raw, np.uint8, -1, offset))
    pixels, labels = found[0].reshape(-1, 28, 28, 1).copy(), found[1].astype(np.int64)
    parts = split(Labelled(pixels, labels), [str(digit) for digit in range(10)])
    train, test = ([torch.from_numpy(a) for a in part] for part in (parts.train, parts.test))
    return images.from_tensors(train, test, list(parts.classes), device)


def data_of(found, device, quick):
    """The set as a run would hold it: a tenth of the training images to validate."""
    few = slice(0, 300 if quick else None)
    pixels, labels = found.train[few], found.train_labels[few]
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0)).to(device)
    held = len(pixels) // 10
    kept, rest = order[:held], order[held:]
    test, test_labels = found.test[few], found.test_labels[few]
    return setup.Data(
        pixels[rest], labels[rest], pixels[kept], test, test_labels, list(found.classes)
    )


def quality_spec(data, options, seed):
    conv = data.shape.channels == 3
    phase = {"max_steps": options.steps, "validate_every": options.steps}
    small = options.quick
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
        "phase1": {**phase, "objective": options.objective},
        "phase2": phase,
        "evaluation": {
            "num_samples": 100 if small else 10_000,
            "classifier_steps": 5 if small else 1500,
            "baselines": ["gmm10", "normal", *PEERS],
        },
    }


@contextmanager
def one_scale(data, options, device):
    """The same features for all seeds and options: on a GPU a training is not repeated exactly."""
    with TemporaryDirectory() as folder:
        spec = LcwTrain.model_validate(quality_spec(data, options, 0))
        found = evaluate.make(spec, data, Run(Path(folder), device=device))
    kept, evaluate.make = evaluate.make, lambda *_: found
    try:
        yield found
    finally:
        evaluate.make = kept


def quality(data, features, options, seed, *, device):
    """Scores of method, options and peers for one seed, all with the same number of steps."""
    fields = quality_spec(data, options, seed)
    spec = LcwTrain.model_validate(fields)
    times = {}
    with TemporaryDirectory() as folder:
        run = Run(Path(folder), device=device, checkpoint_interval_s=1e9)
        job = setup.make_job(spec, data, run)
        for number, name in enumerate(spec.steps()):
            start = time.perf_counter()
            if name in ("autoencoder", "generator"):
                make = {"autoencoder": setup.autoencoder_stage, "generator": setup.generator_stage}
                job.train(number, make[name](job, data))
            else:
                job.train(number, setup.baseline_stage(job, data, name))
            _wait(device)
            times[name] = time.perf_counter() - start
        start = time.perf_counter()
        figures, _ = evaluate.evaluate(job, data, run)
        times["evaluation"] = time.perf_counter() - start
        real = features.of(data.train)
        for name in options.variants.split(","):
            change = VARIANTS[name]
            other = LcwTrain.model_validate({**fields, "phase2": {**fields["phase2"], **change}})
            again = setup.make_job(other, data, run)
            again.nets.encoder.load_state_dict(job.nets.encoder.state_dict())
            again.nets.decoder.load_state_dict(job.nets.decoder.state_dict())
            again.state.stage = 1
            again.train(1, setup.generator_stage(again, data))
            width = (spec.evaluation.num_samples, spec.arch.inputs)
            draws = noise(seed, "samples", 0, width, device)
            latents = nets.in_parts(again.nets.generator, draws)
            made = evaluate.decode(again.nets.decoder, latents)
            score = evaluate.scores.frechet(features.of(made), real)
            figures["scores"][name] = {"frechet": score, "phase2": change}
    kept = ("features", "floor", "scores", "reconstruction", "latent", "memorisation")
    return {"seed": seed, "seconds": times, **{name: figures[name] for name in kept}}


def summary(rows):
    """Mean and standard deviation over seeds of every Frechet distance."""
    found = {}
    for name in rows[0]["scores"]:
        values = [row["scores"][name]["frechet"] for row in rows]
        mean = sum(values) / len(values)
        spread = math.sqrt(sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1))
        found[name] = {"mean": mean, "sd": spread, "seeds": len(values)}
    floors = [row["floor"]["frechet"] for row in rows]
    return found | {"floor": {"mean": sum(floors) / len(floors)}}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--budget-s", type=float, default=240)
    parser.add_argument("--data", type=Path, nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--objective", default="cw2", choices=("ae", "cwae", "cw2"))
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert options.quick or options.quality or device == "cuda", "no GPU: give --quick"
    until = time.monotonic() + options.budget_s
    told = vars(options) | {"data": [path.name for path in options.data]}
    told = {name: str(value) for name, value in told.items() if name != "out"}
    results = {"machine": machine(device), "options": told}
    if options.quality:
        _quality(options, device, results, until)
        return
    size = (512, 32) if device == "cpu" else (16_384, 128)
    chosen = sweep(*size, device, options.out, results, until - options.budget_s / 3)
    if time.monotonic() < until:
        results["correctness"] = correctness(device)
        print("correct", flush=True)
        keep(options.out, results)
    results["delicate"] = delicate(device)
    keep(options.out, results)
    results["peers"] = []
    for n, d in (size, (size[0] // 4, 64), (256, 64)):
        results["peers"].append(peers(n, d, device, chosen))
        print(n, d, results["peers"][-1]["over_ours"], flush=True)
        keep(options.out, results)
    results["images_per_s"] = steps(device, 3 if device == "cpu" else 50)
    print(results["images_per_s"])
    keep(options.out, results)


def _quality(options, device, results, until):
    if options.quick:
        options.steps, options.seeds = 4, [0]
    sets = {path.name: data_of(read(path, device), device, options.quick) for path in options.data}
    results["sets"] = {name: {"runs": []} for name in sets}
    for name, data in sets.items():
        with one_scale(data, options, device) as features:
            _seeds(
                partial(quality, data, features, options, device=device),
                options,
                results,
                name,
                until,
            )


def _seeds(score, options, results, name, until):
    section, longest = results["sets"][name], 0.0
    for seed in options.seeds:
        if time.monotonic() + longest > until:
            print("the budget ends here")
            return
        start = time.monotonic()
        section["runs"].append(score(seed))
        section["frechet"] = summary(section["runs"])
        longest = max(longest, time.monotonic() - start)
        print(name, seed, section["runs"][-1]["seconds"])
        print({k: round(v["mean"], 3) for k, v in section["frechet"].items()}, flush=True)
        keep(options.out, results)


if __name__ == "__main__":
    main()
