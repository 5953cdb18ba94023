"""Which nets of timm and torchvision train as exported programs; the table of docs.

Of each the small form, random weights, exported in training mode; two steps of SGD beside the net
itself in fp32 and in bf16, images of 64 x 64 where it takes them. One family a process: graphs of
``torch.export`` stay in memory.

    python -m tests.bench.programs_tried --out tests/bench/results/programs_tried_DATE.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from models.core.errors import RunError
from models.data.programs import check
from models.nets.layers import layers_of
from models.nets.trainable import load_trainable
from tests.bench.nets_tried import put, versions
from tests.models.nets.libraries import library

CLASSES, IMAGES, STEPS = 4, 4, 2
SIZED = {"img_size": 64}
SMALL = {"img_size": 64, "depth": 3}
PLAIN = """
resnet18 resnetv2_50 nf_resnet50 regnety_004 densenet121 dla34 hrnet_w18_small res2net50_14w_8s
efficientnet_b0 edgenext_xx_small efficientvit_b0 convnextv2_atto convnext_atto
mobilenetv3_small_100 mobilevit_xxs poolformer_s12 xcit_nano_12_p16_224
"""
NETS: dict[str, dict[str, dict[str, Any]]] = {
    "timm": {
        **{name: {} for name in PLAIN.split()},
        "vit_tiny_patch16_224": SIZED,
        "mixer_s32_224": SIZED,
        "levit_128s": SIZED,
        "eva02_tiny_patch14_224": {"img_size": 56},
        "swin_tiny_patch4_window7_224": SIZED | {"window_size": 4},
        "coatnet_nano_rw_224": SIZED,
        "maxvit_nano_rw_256": SIZED,
        "beit_base_patch16_224": SMALL | {"embed_dim": 48, "num_heads": 3},
        "cait_xxs24_224": SMALL,
        "swinv2_tiny_window8_256": SIZED | {"window_size": 4},
    },
    "torchvision": {"squeezenet1_1": {}, "shufflenet_v2_x0_5": {}, "swin_t": {}},
}


def made(source: str, name: str, fields: dict[str, Any]) -> nn.Module:
    """The net, in training mode."""
    torch.manual_seed(0)
    if source == "timm":
        return library("timm").create_model(name, num_classes=CLASSES, **fields).train()
    library("torchvision")
    return library("torchvision.models").get_model(name, num_classes=CLASSES, **fields).train()


def steps(net: nn.Module, size: int, *, bf16: bool) -> list[float]:
    """Losses of a few steps, seeded."""
    numbers = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for step in range(STEPS):
        torch.manual_seed(step)
        x = torch.randn(IMAGES, 3, size, size, generator=numbers)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = functional.cross_entropy(net(x).float(), torch.arange(IMAGES) % CLASSES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def tried(source: str, name: str) -> dict[str, Any]:
    """A row of the table; why not, where it is refused."""
    fields = NETS[source][name]
    size = fields.get("img_size", fields.get("image_size", 64))
    row: dict[str, Any] = {"library": source, "net": name, "size": size}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.pt2"
        example = (torch.randn(2, 3, size, size),)
        batch = ({0: torch.export.Dim.DYNAMIC},)
        try:
            program = torch.export.export(made(source, name, fields), example, dynamic_shapes=batch)
            torch.export.save(program, path)
            row["operations"] = check(path)["operations"]
            for precision in ("fp32", "bf16"):
                expected = steps(made(source, name, fields), size, bf16=precision == "bf16")
                net = load_trainable(path, CLASSES).train()
                actual = steps(net, size, bf16=precision == "bf16")
                row[precision] = max(abs(a - b) for a, b in zip(actual, expected, strict=True))
            weights = dict(net.named_parameters())
            used = {layer.parameter for layer in layers_of(net, 3, (size, size))}
            whole = sum(weight.numel() for weight in weights.values())
            row["maskable"] = sum(weights[x].numel() for x in used) / whole
            row["parameters"] = whole
        except (RunError, RuntimeError) as error:
            row["refused"] = f"{type(error).__name__}: {error}".splitlines()[0][:160]
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| net | parameters | operations | loss apart, fp32 | bf16 | weights of layers | refused |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [
            f"{row['library']} `{row['net']}`",
            f"{row['parameters'] / 1e6:.1f} M" if "parameters" in row else "",
            str(row.get("operations", "")),
            f"{row['fp32']:.1g}" if "fp32" in row else "",
            f"{row['bf16']:.1g}" if "bf16" in row else "",
            f"{100 * row['maskable']:.0f} %" if "maskable" in row else "",
            row.get("refused", "").replace("|", "/"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Try all nets, write the file, and put the table into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs=2, metavar=("LIBRARY", "NET"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.only:
        print(json.dumps(tried(*given.only)))
        return
    rows = json.loads(given.out.read_text())["rows"] if given.out.exists() else []
    done = {(row["library"], row["net"]) for row in rows}
    for pair in ((source, name) for source, names in NETS.items() for name in names):
        if pair in done:  # by an earlier call that was cut off
            continue
        command = [sys.executable, "-m", "tests.bench.programs_tried", "--only", *pair]
        told = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(told.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
        out = {"versions": versions(), "images": IMAGES, "steps": STEPS, "rows": rows}
        given.out.write_text(json.dumps(out, indent=1))
    put(table(rows), "programs")


if __name__ == "__main__":
    main()
