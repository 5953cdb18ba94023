"""Sections of ``saliency_gpu`` on trained weights and on nets of libraries.

    python -m tests.bench.saliency_gpu --pack FOLDER    # weights and photographs, on any machine
    python -m tests.bench.saliency_gpu --data FOLDER --sections trained,libraries --out FILE.json

A folder holds ``lite0.safetensors`` and ``photos.npy`` (float32 [n, 3, 224, 224] as the net sees
them), so that the machine with the GPU needs no packages of weights and photographs.
"""

import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.core.errors import SpecError
from models.nets import efficientnet_lite
from models.nets import library as net_library
from models.saliency.methods.registry import compute_map
from models.saliency.net import load
from models.saliency.net.scores import Scorer
from models.saliency.ranks import spearman_matrix
from models.saliency.spec.masks import Occlusion, Rise
from models.saliency.spec.net import NamedNet
from tests.bench.saliency_gpu_parts import (
    CAPTUM,
    FORMATS,
    UNTIMED,
    Bench,
    arithmetic,
    captum_occlusion,
    gap,
    rated,
)

NETS = (("timm", "resnet18"), ("timm", "efficientnet_lite0"), ("timm", "densenet121"),
        ("torchvision", "resnet50"), ("torchvision", "mobilenet_v2"))  # fmt: skip


def pack(folder: Path) -> None:
    """Leave the weights and the photographs where ``--data`` finds them."""
    from models.data import samples  # their packages are not where the GPU is
    from models.saliency.net import images

    folder.mkdir(parents=True, exist_ok=True)
    subject = load.pretrained("cpu")
    save_file(subject.net.state_dict(), folder / "lite0.safetensors")
    photos = [
        subject.space.normalise(images.prepare(samples.photo(index), subject, "image"))
        for index in range(len(samples.PHOTOS))
    ]
    np.save(folder / "photos.npy", torch.stack(photos).float().numpy())


def trained(bench: Bench, folder: Path | None) -> dict[str, Any] | str:
    """EfficientNet-Lite0: what TF32 and bf16 change in our maps, and in the peer's own.

    Each difference compares a map with the same program's map in full float32, as the largest
    difference in probability, as a share of the map's range, and by rank correlation. Each unit
    is reported as soon as it is done.
    """
    if folder is None:
        return "left out: needs --data"
    net = efficientnet_lite.EfficientNetLite0()
    net.load_state_dict(load_file(folder / "lite0.safetensors"))
    photos = torch.from_numpy(np.load(folder / "photos.npy"))[: 1 if bench.quick else None]
    side = 112 if bench.quick else 32
    bench.window = Occlusion(id="occlusion", window=side, stride=side if bench.quick else 8)
    bench.use(net.eval(), photos[0], 0)
    figures = bench.figures["trained"]
    for name in ("fp32", *UNTIMED):
        work = bench.maker(name, bench.window)
        unit(bench, f"{name}_first", lambda work=work: first_uses(bench, work))
    for index, photo in enumerate(photos.to(bench.on)):
        bench.x, bench.target = photo, int(bench.net(photo[None]).argmax())
        unit(bench, f"photo_{index}", lambda: differences(bench))
    for name in ("fp32", *UNTIMED, *FORMATS[1:]):
        unit(bench, name, lambda name=name: clocked(bench, name))
    return figures


def unit(bench: Bench, name: str, work: Callable[[], dict[str, Any]]) -> None:
    """One unit of section ``trained``, reported at once; skipped when the budget is spent."""
    if time.monotonic() < bench.end:
        started = time.monotonic()
        figures = work()
        figures["unit_s"] = round(time.monotonic() - started, 2)
        bench.figures["trained"][name] = figures
        bench.report(name, figures)


def first_uses(bench: Bench, work: Callable[[], Any]) -> dict[str, Any]:
    """Seconds of the first three maps: routes, the graph's recording, its replay."""
    taken = []
    for _ in range(3):
        bench.wait()
        start = time.perf_counter()
        work()
        bench.wait()
        taken.append(round(time.perf_counter() - start, 3))
    return {"seconds": taken}


def clocked(bench: Bench, name: str) -> dict[str, Any]:
    """An occlusion map with captum's in turn; its first uses apart where cuDNN times kernels."""
    works: dict[str, Callable[[], Any]] = {}
    if bench.figures["captum"] and name in FORMATS:
        sizes = CAPTUM[3:] if not bench.quick else CAPTUM[:1]
        works = {f"captum_{n}": captum_occlusion(bench, name, n) for n in sizes}
    works["sextant"] = bench.maker(name, bench.window)
    return with_first_uses(bench, works)


def with_first_uses(bench: Bench, works: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """The works in turn, after the seconds of our first three maps."""
    first = first_uses(bench, works["sextant"])
    return rated(bench.milliseconds(works)) | {"first_uses": first["seconds"]}


def differences(bench: Bench) -> dict[str, Any]:
    """Of one photograph's maps by number format, for each program from its own in float32."""
    part = Rise(id="rise", masks=8 if bench.quick else 500)
    programs: dict[str, Callable[[str], Tensor]] = {
        "occlusion": lambda name: bench.maker(name, bench.window)(),
        "rise": lambda name: bench.maker(name, part)(),
    }
    if bench.figures["captum"]:
        programs["captum"] = lambda name: captum_occlusion(bench, name, 64)()
    exact = {program: make_map("fp32") for program, make_map in programs.items()}
    figures: dict[str, Any] = {
        f"{program}_{name}": compared(make_map(name), exact[program])
        for program, make_map in programs.items()
        for name in UNTIMED
    }
    if "captum" in exact:
        figures["programs_fp32"] = compared(exact["occlusion"], exact["captum"])
    return figures


def compared(a: Tensor, b: Tensor) -> dict[str, float]:
    """Largest difference, its share of the second map's range, and rank correlation."""
    worst = gap(a, b)
    both = np.stack([v.float().cpu().numpy() for v in (a, b)])
    return {
        "max_difference": worst,
        "of_range": worst / (b.max() - b.min()).item(),
        "spearman": float(spearman_matrix(both)[0, 1]),
    }


def libraries(bench: Bench) -> dict[str, Any]:
    """Nets of timm and torchvision by name: plan and boxes against the plain net in float32."""
    arithmetic("fp32")
    figures: dict[str, Any] = bench.figures["libraries"]
    for library, name in NETS[:1] if bench.quick else NETS:
        label = f"{library}_{name}"
        try:
            part = NamedNet(library=library, name=name, weights="random")
            net = net_library.named(part, None, pretrained=False).eval()
            bench.use(net, bench.x, 1)
            figures[label] = against_plain(bench)
        except (SpecError, RuntimeError, ValueError) as error:
            figures[label] = {"failed": f"{type(error).__name__}: {error}"[:300]}
        bench.report(label, figures[label])
    figures["versions"] = {library: installed(library) for library in ("timm", "torchvision")}
    return figures


def against_plain(bench: Bench) -> dict[str, float]:
    """An occlusion map by boxes beside that of the plain net, in probability."""
    plain = bench.case("fp32", chunk=64)
    plain.scorer = Scorer(bench.net, "prob")
    actual, expected = (
        compute_map(bench.window, case, bench.b)[0] for case in (bench.case("fp32"), plain)
    )
    return {**compared(actual, expected), "largest_of_map": expected.abs().max().item()}


def installed(name: str) -> str | None:
    """Version of a library, None where it is missing."""
    try:
        return str(import_module(name).__version__)
    except ImportError:
        return None


def quality(bench: Bench) -> dict[str, Any]:
    """Error of RISE's estimators and samplings at equal N, against many masks of another seed."""
    arithmetic("tf32")

    def made(seed: int, masks: int, **fields: Any) -> Tensor:
        case = bench.case("tf32")
        case.seed = seed
        return compute_map(Rise(id="rise", masks=masks, **fields), case, bench.b)[0]

    figures: dict[str, Any] = {}
    reference, counts = (16, (8,)) if bench.quick else (40_000, (250, 500, 1000, 2000, 4000))
    for estimator in ("raw", "slope"):
        whole = made(99, reference, estimator=estimator)
        for sampling in ("iid", "balanced"):
            for count in counts:
                if time.monotonic() > bench.end:
                    return figures
                errors_of_maps = [
                    made(s, count, estimator=estimator, sampling=sampling) - whole
                    for s in range(2 if bench.quick else 6)
                ]
                errors = [(error.std() / whole.std()).item() for error in errors_of_maps]
                figures[f"{estimator}_{sampling}_{count}"] = {"relative_error": errors}
    return figures
