"""Value and gradient of the two-sample Cramer-Wold distance beside its peers, on one CPU thread.

    python -m tests.bench.lcw [--quick] [--out FILE.json]

All forms do the same work (float32, gradient for x only) on the same points in one process, in an
order drawn anew each round: what ran before decides what is in the caches. Value and gradient are
compared with float64. ``cw-torch`` takes part where it is installed.
"""

import argparse
import multiprocessing
import statistics
import time
from importlib.util import find_spec
from pathlib import Path

import torch

from models.lcw import nets, objectives
from models.lcw.distance import normality, silverman, two_sample
from models.lcw.fields import Architecture, Phase1
from tests.bench.lcw_forms import cdist_form, gram_form, keep, machine

SIZES = ((256, 8), (256, 64), (1024, 64), (256, 784), (1024, 784), (4096, 64))
HUGE = (65_536, 64)


def forms(gamma):
    """Every form by name."""
    figures = {
        "ours": lambda x, y: two_sample(x, y, gamma),
        "ours_without_yy": lambda x, y: two_sample(x, y, gamma, include_yy=False),
        "ours_exact": lambda x, y: two_sample(x, y, gamma, "exact"),
        "cdist": lambda x, y: cdist_form(x, y, gamma),
        "gram": lambda x, y: gram_form(x, y, gamma),
    }
    if find_spec("cw_torch"):
        from cw_torch.metric import cw

        figures["cw_torch"] = lambda x, y: cw(x, y, torch.tensor(gamma))
    return figures


def points(n, d):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, d, generator=g), 1.1 * torch.randn(n, d, generator=g)
    return x.requires_grad_(), y


def both(form, x, y):
    value = form(x, y)
    return value, torch.autograd.grad(value, x)[0]


def compare(n, d, rounds):
    """Times of all forms in turn, and errors against float64."""
    x, y = points(n, d)
    gamma = silverman(1.0, n)
    wide = x.detach().double().requires_grad_()
    value, gradient = both(forms(gamma)["ours"], wide, y.double())
    exact = both(forms(gamma)["ours_exact"], wide, y.double())
    times = {name: {"cpu_s": [], "wall_s": []} for name in forms(gamma)}
    results = {}
    named = list(forms(gamma).items())
    for _ in range(rounds + 1):  # the first round warms up
        for name, form in (named[k] for k in torch.randperm(len(named))):
            wall, cpu = time.perf_counter(), time.process_time()
            results[name] = both(form, x, y)
            times[name]["cpu_s"].append(time.process_time() - cpu)
            times[name]["wall_s"].append(time.perf_counter() - wall)
    rows = {}
    for name, taken in times.items():
        row = {}
        for clock, seconds in taken.items():
            row |= {
                f"{clock}_min": min(seconds[1:]),
                f"{clock}_median": statistics.median(seconds[1:]),
            }
        v, g = exact if name == "ours_exact" else (value, gradient)
        if name != "ours_without_yy":
            row["value_error"] = abs(results[name][0].item() / v.item() - 1)
        row["gradient_error"] = ((results[name][1] - g).norm() / g.norm()).item()
        rows[name] = row
    ratios = {
        f"{kind}_over_ours": {m: row[kind] / rows["ours"][kind] for m, row in rows.items()}
        for kind in ("cpu_s_min", "cpu_s_median")
    }
    return {"n": n, "d": d, "rounds": rounds, "forms": rows, **ratios}


def _peak(name, n, d, queue):
    """In a process of its own: memory above that of the points and one small call."""
    torch.set_num_threads(1)
    form = forms(silverman(1.0, n))[name]
    both(form, *points(64, d))
    x, y = points(n, d)
    before = _kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    start = time.process_time()
    both(form, x, y)
    taken = time.process_time() - start
    queue.put((_kib("VmHWM") - before, taken))


def _kib(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def peak(name, n, d):
    """Extra peak memory in MiB and CPU seconds of value and gradient."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_peak, args=(name, n, d, queue))
    process.start()
    kib, seconds = queue.get()
    process.join()
    return {"form": name, "n": n, "d": d, "extra_mib": kib / 1024, "cpu_s": seconds}


def end_to_end(steps):
    """CPU seconds of a whole training step of the 28 x 28 MLP, n = 256, d = 8."""
    losses = {
        "squared_error": lambda x, _, y: objectives.squared_error(x, y),
        "cw2_ours": lambda x, z, y: objectives.autoencoder(Phase1(), x, z, y, 0.3081),
        "cw2_cdist": lambda x, z, y: (
            torch.log(cdist_form(y.flatten(1), x.flatten(1), silverman(0.3081, len(x))))
            + torch.log(normality(z) + 1e-7)
        ),
    }
    times = {name: [] for name in losses}
    states = {}
    for name in losses:
        torch.manual_seed(0)
        built = nets.build(Architecture().resolve(28, 1), nets.ImageShape(1, 28))
        parameters = [*built.encoder.parameters(), *built.decoder.parameters()]
        states[name] = (built, torch.optim.Adam(parameters, lr=2e-3))
    batch = torch.rand(256, 1, 28, 28)
    for _ in range(steps + 2):
        for name, loss in losses.items():
            built, optimizer = states[name]
            start = time.process_time()
            optimizer.zero_grad()
            z = built.encoder(batch)
            loss(batch, z, built.decoder(z)).backward()
            optimizer.step()
            times[name].append(time.process_time() - start)
    figures = {name: statistics.median(taken[2:]) for name, taken in times.items()}
    return {
        "cpu_s_per_step": figures,
        "images_per_cpu_s": {name: 256 / taken for name, taken in figures.items()},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {"machine": machine(), "threads": 1, "dtype": "float32", "sizes": [], "memory": []}
    for n, d in SIZES[:2] if options.quick else SIZES:
        row = compare(n, d, 2 if options.quick else (60 if n * n * d < 1e8 else 7))
        results["sizes"].append(row)
        print(n, d, {name: round(ratio, 2) for name, ratio in row["cpu_s_min_over_ours"].items()})
        keep(options.out, results)
    n, d = (512, 64) if options.quick else (4096, 64)
    for name in forms(0.1):
        results["memory"].append(peak(name, n, d))
        print(results["memory"][-1])
        keep(options.out, results)
    results["huge"] = peak("ours", *((2048, 64) if options.quick else HUGE))
    print(results["huge"])
    results["training_step"] = end_to_end(3 if options.quick else 30)
    print(results["training_step"])
    keep(options.out, results)


if __name__ == "__main__":
    main()
