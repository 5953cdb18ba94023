"""Selective units and DenseNets on one GPU: correct first, then timed.

    python -m tests.bench.selective_gpu --out FILE [--sections a,b] [--budget-s 240] [--quick]

Sections: correct, units, kernels, nets, inference, rounds, sweep, alike, nets_compiled. Work is
timed as CUDA graphs, all arms in turn: a plain net as it is and compiled, selective ones with
shares of their slots re-used. The file is written after every section. ``--quick`` runs the same
code in small, on a CPU too. Trained nets: ``tests.bench.selective_quality``.
"""

import argparse
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.core import device
from models.nets.build import build_net
from models.nets.preactivation import Unit
from models.nets.selective import conv_gpu
from models.nets.selective.conv_gpu import ConvTiles
from models.nets.selective.unit import SelectiveUnit
from models.selective_convolution.allocate import deallocate, reallocate
from models.selective_convolution.export import compact
from models.selective_convolution.rounds import units_of
from tests.bench.selective import moved
from tests.bench.selective_checks import Bench, alike, batch_of, correct, differentiate
from tests.bench.selective_quality import make_spec

LAYERS = ((96, 48, 32), (256, 64, 16), (512, 128, 16))
SHARES = (0.0, 0.1, 0.3, 0.6)
NETS = (("densenet40", 256), ("densenet100", 128))  # and images a step
SWEPT = (
    ConvTiles(),
    ConvTiles(group=2),
    ConvTiles(group=8),
    ConvTiles(image=128),
    ConvTiles(image=512),
    ConvTiles(moved=64),
)
TIMED = (
    *("correct", "units", "kernels", "nets", "inference", "rounds"),
    *("sweep", "alike", "nets_compiled"),
)


@contextmanager
def tiles(chosen: ConvTiles) -> Generator[None]:
    """Programs of other shapes."""
    usual, conv_gpu.TILES = conv_gpu.TILES, chosen
    try:
        yield
    finally:
        conv_gpu.TILES = usual


def units(bench: Bench) -> dict[str, Any]:
    """Forward and backward of single units, as graphs; best plain setting counts."""
    figures = {}
    for c_in, c_out, side in LAYERS[: 1 if bench.quick else None]:
        if figures and bench.left < 45:
            break
        torch.manual_seed(0)
        plain, x = Unit(c_in, c_out, 1).to(bench.on), batch_of(bench, c_in, side)
        runs = {
            "plain": differentiate(plain, x, bench.on),
            "plain compiled": differentiate(bench.compiled(plain), x, bench.on),
        }
        for share in SHARES:
            unit = moved(plain, share).to(bench.on)
            runs[f"selective {share}"] = differentiate(unit, x, bench.on)
        spread = moved(plain, 0.3, channels=24).to(bench.on)  # copies of all rounds, not of one
        runs["selective 0.3 of 24 channels"] = differentiate(spread, x, bench.on)
        graphs = {name: bench.graph(run) for name, run in runs.items()}
        ms = bench.ms(graphs)
        best = min(ms[name]["min_ms"] for name in ("plain", "plain compiled"))
        ratios = {name: row["min_ms"] / best for name, row in ms.items()}
        label = f"{c_in}->{c_out}, {side}x{side}, batch {len(x)}"
        figures[label] = {"graphs": ms, "to the best plain": ratios}
        bench.figures["units so far"] = figures
        bench.write()
    bench.figures.pop("units so far", None)
    return figures


def kernels(bench: Bench) -> dict[str, Any]:
    """Microseconds of each kernel of a step: plain compiled, selective with 30 % re-used."""
    figures = {}
    for c_in, c_out, side in LAYERS:
        torch.manual_seed(0)
        plain, x = Unit(c_in, c_out, 1).to(bench.on), batch_of(bench, c_in, side)
        arms = {"plain compiled": bench.compiled(plain), "0.3": moved(plain, 0.3).to(bench.on)}
        for name, unit in arms.items():
            label = f"{c_in}->{c_out}, {side}x{side}: {name}"
            figures[label] = profiled(bench, differentiate(unit, x, bench.on))
    return figures


def profiled(bench: Bench, run: Callable[[], object]) -> dict[str, list[float]]:
    """Of each kernel of a pass, the longest first: microseconds and calls."""
    if bench.on != "cuda":
        return {}
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as kept:
        for _ in range(5):
            run()
        bench.wait()
    ms: dict[str, list[float]] = {}
    for row in kept.key_averages():  # long names of torch's own differ behind their beginnings
        taken = ms.setdefault(row.key[:70], [0.0, 0.0])
        taken[:] = taken[0] + row.device_time_total / 5, taken[1] + row.count / 5
    first = sorted(ms.items(), key=lambda item: -item[1][0])[:16]
    return {name: [round(us, 1), calls] for name, (us, calls) in first}


def moved_net(spec, share: float, on: str) -> nn.Module:
    """The selective net of a spec with a share of the slots re-used."""
    torch.manual_seed(0)
    net = build_net(spec.net(), 10, 3)
    for unit in units_of(net).values():
        if isinstance(unit, SelectiveUnit):
            slots = torch.randperm(len(unit.gate))[: round(share * len(unit.gate))]
            with torch.no_grad():
                unit.source[slots] = torch.randint(0, 3, (len(slots),))
                unit.shift[slots] = 3 * torch.rand(len(slots), 2) - 1.5
    return net.to(on, memory_format=torch.channels_last)


def nets(bench: Bench, *, compiled: bool = False) -> dict[str, Any]:
    """Forward and backward of DenseNets as graphs: plain, selective; compiled or as it is."""
    figures = {}
    for name, batch in NETS[: 1 if bench.quick or compiled else None]:
        if figures and bench.left < 30:
            break
        spec = make_spec("selective", 0, 2, name=name, growth=4 if bench.quick else 12)
        torch.manual_seed(0)
        arms = {"plain": build_net(spec.model.model_dump(), 10, 3)}
        arms |= {f"selective {s}": moved_net(spec, s, bench.on) for s in (0.0, 0.3)}
        x = torch.randn(2 if bench.quick else batch, 3, 32, 32, device=bench.on)
        x = x.to(memory_format=torch.channels_last).requires_grad_()
        runs = {}
        for arm, net in arms.items():
            net.to(bench.on, memory_format=torch.channels_last)
            used = bench.compiled(net) if compiled else net
            runs[arm] = differentiate(used, x, bench.on)
        graphs = {arm: bench.graph(run) for arm, run in runs.items()}
        figures[f"{name}, batch {len(x)}"] = bench.ms(graphs) | {
            "peak_mib": {arm: bench.peak_mib(run) for arm, run in runs.items()},
            "kernels": {arm: profiled(bench, run) for arm, run in runs.items()},
        }
    return figures


def inference(bench: Bench) -> dict[str, Any]:
    """DenseNet-40 in eval mode as graphs: plain, selective with 30 % moved, and its exports."""
    spec = make_spec("selective", 0, 2, growth=4 if bench.quick else 12)
    net = moved_net(spec, 0.3, bench.on).eval()
    closed = moved_net(spec, 0.0, bench.on).eval()
    for unit in units_of(closed).values():
        unit.gate[torch.randperm(len(unit.gate))[: round(0.3 * len(unit.gate))]] = 0
    plain = build_net(spec.model.model_dump(), 10, 3)
    small = {
        "compact 0.3": compact(net, spec.model, 10, 3, whole=False)[0],
        "whole shifts 0.3": compact(net, spec.model, 10, 3, whole=True)[0],
        "compact, 0.3 closed": compact(closed, spec.model, 10, 3, whole=False)[0],
    }
    arms = {"plain": plain.to(bench.on).eval(), "selective 0.3": net, **small}
    x = torch.randn(4 if bench.quick else 512, 3, 32, 32, device=bench.on)
    x = x.to(memory_format=torch.channels_last)

    def forward(net: nn.Module) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.no_grad(), torch.autocast(bench.on, dtype=torch.bfloat16):
                return net(x)

        return run

    for used in arms.values():
        used.to(memory_format=torch.channels_last)
    for name, whole in (("compact 0.3", net), ("compact, 0.3 closed", closed)):
        figures, right = forward(small[name])(), forward(whole)()
        gap = (figures - right).norm() / right.norm()  # in bfloat16
        assert gap < 0.05, (name, gap.item())
    graphs = {name: bench.graph(forward(net)) for name, net in arms.items()}
    ms: dict[str, Any] = bench.ms(graphs)
    kernels = {name: profiled(bench, forward(net)) for name, net in arms.items()}
    return ms | {"convolutions": convolutions(bench, len(x)), "kernels": kernels}


def convolutions(bench: Bench, n: int) -> dict[str, Any]:
    """A 3x3 without the channels that are closed, where those are none, some or 30 %."""
    graphs = {}
    form = {"dtype": torch.bfloat16, "memory_format": torch.channels_last}
    for c in (48, 40, 34):
        narrow = nn.Conv2d(c, 12, 3, padding=1, bias=False).to(bench.on).to(**form)
        z = torch.zeros(n, c, 32, 32, device=bench.on).to(**form)
        graphs[f"3x3 of {c} channels"] = bench.graph(lambda conv=narrow, z=z: conv(z).detach())
    return bench.ms(graphs)


def rounds(bench: Bench) -> dict[str, Any]:
    """A round of closing and re-use; the host waits once, at the end."""
    runs = {}
    for c_in, c_out in ((168, 48), (408, 48), (1024, 512)):
        start = SelectiveUnit(c_in, c_out, 1).to(bench.on)
        with torch.no_grad():  # the same half closes, and opens with weights 0, in every round
            start.conv.weight[:, : c_in // 2] = 0

        def run(unit: SelectiveUnit = start) -> None:
            deallocate(unit, 1e-3)
            reallocate(unit, 3, 1.5, torch.Generator().manual_seed(0))

        runs[f"{c_in}x{c_out}"] = run
    return bench.ms(runs)


def sweep(bench: Bench) -> dict[str, Any]:
    """Forward and backward with 30 % re-used, of few channels and of many, in other tiles."""
    figures: dict[str, Any] = {}
    for c_in, c_out, side in LAYERS[: 1 if bench.quick else None]:
        for channels in (3, 24):
            torch.manual_seed(0)
            unit = moved(Unit(c_in, c_out, 1), 0.3, channels=channels).to(bench.on)
            run = differentiate(unit, batch_of(bench, c_in, side), bench.on)
            label = f"{c_in}->{c_out}, {side}x{side}, 30 % of {channels} channels"
            figures[label] = swept(bench, run)
            bench.figures["sweep so far"] = figures
            bench.write()
    bench.figures.pop("sweep so far", None)
    return figures


def swept(bench: Bench, run: Callable[[], Any]) -> dict[str, Any]:
    """Times of a pass in each of the tiles that give the gradients of the usual ones."""
    runs, failed, expected = {}, {}, run()[1]
    for shapes in SWEPT[: 2 if bench.quick else None]:
        if bench.left < 5:
            break
        try:
            with tiles(shapes):
                for figures, right in zip(run()[1], expected, strict=True):
                    assert (figures - right).norm() <= 0.01 * right.norm(), "other gradients"
                runs[str(shapes._asdict())] = bench.graph(run)
        except Exception as error:  # a shape may not fit the chip
            failed[str(tuple(shapes))] = str(error)[:200]
    return bench.ms(runs) | {"failed": failed}


SECTIONS: dict[str, Callable[[Bench], Any]] = {
    "correct": correct,
    "units": units,
    "kernels": kernels,
    "nets": nets,
    "inference": inference,
    "rounds": rounds,
    "sweep": sweep,
    "alike": alike,
    "nets_compiled": lambda bench: nets(bench, compiled=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sections", default=",".join(TIMED))
    parser.add_argument("--budget-s", type=float, default=240)
    chosen = parser.parse_args()
    bench = Bench(chosen.out, chosen.budget_s, chosen.quick)
    if bench.on == "cuda":
        device.tune("cuda")
    for name in chosen.sections.split(","):
        bench.section(name, SECTIONS[name])


if __name__ == "__main__":
    main()
