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
from models.data import samples
from models.nets import efficientnet_lite
from models.saliency import inputs, subjects
from models.saliency.agreement import spearman_matrix
from models.saliency.makers import make
from models.saliency.scores import Scorer
from models.saliency.spec_masks import Occlusion, Rise
from models.saliency.spec_net import NamedNet
from tests.bench.saliency_gpu_parts import (
    CAPTUM,
    FORMATS,
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
    folder.mkdir(parents=True, exist_ok=True)
    subject = subjects.pretrained("cpu")
    save_file(subject.net.state_dict(), folder / "lite0.safetensors")
    photos = [
        subject.space.normalise(inputs.prepare(samples.photo(place), subject, "image"))
        for place in range(len(samples.PHOTOS))
    ]
    np.save(folder / "photos.npy", torch.stack(photos).float().numpy())


def trained(bench: Bench, folder: Path | None) -> dict[str, Any] | str:
    """EfficientNet-Lite0: what TF32 and bf16 change in our maps, and in the peer's own.

    Each figure compares a map with the same program's map in full float32, as the largest
    difference in probability, as a share of the map's range, and by rank correlation.
    """
    if folder is None:
        return "left out: needs --data"
    net = efficientnet_lite.EfficientNetLite0()
    net.load_state_dict(load_file(folder / "lite0.safetensors"))
    photos = torch.from_numpy(np.load(folder / "photos.npy"))[: 1 if bench.quick else None]
    stride = 112 if bench.quick else 16
    bench.window = Occlusion(id="occlusion", window=112 if bench.quick else 32, stride=stride)
    bench.use(net.eval(), photos[0], 0)
    told: dict[str, Any] = {"photos": {}}
    for place, photo in enumerate(photos.to(bench.on)):
        bench.x, bench.target = photo, int(bench.net(photo[None]).argmax())
        told["photos"][str(place)] = differences(bench)
    if not bench.quick:
        bench.window = Occlusion(id="occlusion", window=32, stride=8)
    for name in FORMATS:
        works: dict[str, Callable[[], Any]] = {}
        if bench.found["captum"]:
            sizes = CAPTUM[1:] if not bench.quick else CAPTUM[:1]
            works = {f"captum_{n}": captum_occlusion(bench, name, n) for n in sizes}
        works["sextant"] = bench.maker(name, bench.window)
        told[name] = rated(bench.milliseconds(works))
    return told


def differences(bench: Bench) -> dict[str, Any]:
    """Of one photograph's occlusion maps by number format, for each program from its own."""
    programs: dict[str, Callable[[str], Tensor]] = {
        "sextant": lambda name: bench.maker(name, bench.window)()
    }
    if bench.found["captum"]:
        programs["captum"] = lambda name: captum_occlusion(bench, name, 64)()
    told: dict[str, Any] = {}
    exact = {name: make_map("fp32") for name, make_map in programs.items()}
    for program, make_map in programs.items():
        for name in FORMATS[1:]:
            told[f"{program}_{name}"] = compared(make_map(name), exact[program])
    if "captum" in exact:
        told["programs_fp32"] = compared(exact["sextant"], exact["captum"])
    return told


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
    told: dict[str, Any] = {}
    for library, name in NETS[:1] if bench.quick else NETS:
        label = f"{library}_{name}"
        try:
            part = NamedNet(library=library, name=name, weights="random")
            net = subjects.named(part, None, pretrained=False).eval()
            bench.use(net, bench.x, 1)
            told[label] = against_plain(bench)
        except (SpecError, RuntimeError, ValueError) as error:
            told[label] = {"failed": f"{type(error).__name__}: {error}"[:300]}
    told["versions"] = {library: installed(library) for library in ("timm", "torchvision")}
    return told


def against_plain(bench: Bench) -> dict[str, float]:
    """An occlusion map by boxes beside that of the plain net, in probability."""
    plain = bench.case("fp32", chunk=64)
    plain.scorer = Scorer(bench.net, "prob")
    found, wanted = (make(bench.window, case, bench.b)[0] for case in (bench.case("fp32"), plain))
    return {**compared(found, wanted), "largest_of_map": wanted.abs().max().item()}


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
        return make(Rise(id="rise", masks=masks, **fields), case, bench.b)[0]

    told: dict[str, Any] = {}
    reference, counts = (16, (8,)) if bench.quick else (40_000, (250, 500, 1000, 2000, 4000))
    for estimator in ("raw", "slope"):
        whole = made(99, reference, estimator=estimator)
        for sampling in ("iid", "balanced"):
            for count in counts:
                if time.monotonic() > bench.end:
                    return told
                found = [
                    made(s, count, estimator=estimator, sampling=sampling) - whole
                    for s in range(2 if bench.quick else 6)
                ]
                errors = [(error.std() / whole.std()).item() for error in found]
                told[f"{estimator}_{sampling}_{count}"] = {"relative_error": errors}
    return told
