"""What TF32 and bf16 change in maps at trained weights, on a CPU: no GPU is needed for it.

    python -m tests.bench.saliency_formats --out FILE.json [--photos 6]
    python -m tests.bench.saliency_formats --quick

TF32 is worked out as tensor cores do it: numbers that enter a convolution or the last product are
rounded to 10 bits of fraction, sums stay in float32. bf16 is PyTorch's own on the CPU.
"""

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.data import samples
from models.saliency import inputs, subjects
from models.saliency.case import Case
from models.saliency.engine.trace import trace
from models.saliency.makers import make
from models.saliency.scores import Scorer
from models.saliency.spec_masks import Occlusion, Rise
from tests.bench.saliency_clock import describe
from tests.bench.saliency_gpu_trained import compared

HALF, BITS = 0x1000, -0x2000  # half of the last bit that is kept; mask of the upper 19 bits


def rounded(x: Tensor) -> Tensor:
    """To the nearest TF32 number."""
    return ((x.contiguous().view(torch.int32) + HALF) & BITS).view(torch.float32)


def tf32(net: nn.Module) -> nn.Module:
    """A net whose convolutions and products see TF32 numbers; batch norms are left as they are."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data = rounded(module.weight.data)
            module.register_forward_pre_hook(lambda _, args: (rounded(args[0]), *args[1:]))
    return net


def scorers(net: nn.Module) -> dict[str, Scorer]:
    """The net in each format; float32 by its plan, the others as they are."""
    low = copy.deepcopy(net).bfloat16().to(memory_format=torch.channels_last)
    return {
        "fp32": Scorer(copy.deepcopy(net), "prob", plan=trace(net, (3, 224, 224))),
        "fp32_plain": Scorer(copy.deepcopy(net), "prob"),
        "tf32": Scorer(tf32(net), "prob"),
        "bf16": Scorer(copy.deepcopy(net), "prob", lower=low),
    }


def photo(read: dict[str, Scorer], x: Tensor, quick: bool) -> dict[str, Any]:
    """Differences of one photograph's maps from those of float32."""
    side = 112 if quick else 32
    parts = {
        "occlusion": Occlusion(id="occlusion", window=side, stride=side if quick else 16),
        "rise": Rise(id="rise", masks=8 if quick else 200),
    }
    targets = read["fp32"].outputs(x[None]).argmax(1)
    told: dict[str, Any] = {}
    for method, part in parts.items():
        maps = {}
        for name, scorer in read.items():
            full = scorer.read(scorer.outputs(x[None]))[0, targets]
            case = Case(x, scorer, targets, full, 0, 8)
            maps[name] = make(part, case, torch.zeros_like(x))[0]
        exact = maps.pop("fp32")
        told |= {f"{method}_{name}": compared(values, exact) for name, values in maps.items()}
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--photos", type=int, default=6)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    subject = subjects.pretrained("cpu")
    result: dict[str, Any] = {"machine": describe(), "photos": {}}
    with torch.inference_mode():
        read = scorers(subject.net)
        for place in range(1 if options.quick else options.photos):
            pixels = inputs.prepare(samples.photo(place), subject, "image")
            x = subject.space.normalise(pixels).float()
            result["photos"][samples.PHOTOS[place]] = found = photo(read, x, options.quick)
            print(samples.PHOTOS[place], json.dumps(found), flush=True)
            if options.out:
                options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
