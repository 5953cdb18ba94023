"""Which nets of timm and torchvision take cheap steps: one of each family; the table of docs.

Random weights, images of 128 x 128, cheap ones of 64 x 64; operations as torch multiplies them.

    python -m tests.bench.nets_tried --out tests/bench/results/nets_tried_DATE.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from models.core.errors import RunError
from models.dynamic_downsampling.cheap import plan_layers
from models.dynamic_downsampling.cheap_mode import CheapMode
from models.dynamic_downsampling.fields import Downsample
from models.nets.build import build_net
from models.nets.layers import evaluate, layers_of, macs_of
from models.nets.start import check_answer
from tests.models.nets.libraries import library

FULL, HALF, CLASSES = (128, 128), (64, 64), 10
FAMILIES = {
    "timm": (
        "resnet18", "resnetv2_50", "nf_resnet26", "regnety_004", "densenet121", "dla34",
        "hrnet_w18_small", "res2net50_14w_8s", "vgg11_bn", "efficientnet_b0",
        "tf_efficientnet_b0",
        "mobilenetv3_small_100", "ghostnet_100", "mnasnet_100", "repvgg_a0",
        "convnext_atto", "convnextv2_atto", "poolformer_s12", "edgenext_xx_small", "mobilevit_xxs",
        "efficientvit_b0",
        "vit_tiny_patch16_224", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224",
        "eva02_tiny_patch14_224", "xcit_nano_12_p16_224", "cait_xxs24_224", "levit_128s",
        "mixer_s32_224", "gmlp_ti16_224", "beit_base_patch16_224", "maxvit_nano_rw_256",
        "coatnet_nano_rw_224",
    ),
    "torchvision": ("resnet18", "squeezenet1_1", "shufflenet_v2_x0_5", "googlenet", "vit_b_32"),
}  # fmt: skip
PAGE = Path(__file__).parents[2] / "docs" / "nets.md"


def tried(source: str, name: str) -> dict[str, Any]:
    """A row of the table; why not, where it is refused."""
    row: dict[str, Any] = {"library": source, "net": name}
    torch.manual_seed(0)
    try:
        net = build_net({"library": source, "name": name}, CLASSES, 3, FULL)
        row["parameters"] = sum(p.numel() for p in net.parameters())
        check_answer(net, 3, FULL, CLASSES)
        layers = layers_of(net, 3, FULL)
        poolings, rows = plan_layers(net, Downsample(), 3, FULL)
        row |= {"convolutions": len(rows), "pooled": len(poolings)}
        masked = {x.parameter for x in layers}
        weights = dict(net.named_parameters())
        row["maskable"] = sum(weights[x].numel() for x in masked) / row["parameters"]
        whole, small = CheapMode(net, {}), CheapMode(net, poolings)
        with whole.cheap():
            evaluate(net, 3, HALF)
        full = macs_of(net, 3, FULL)
        for label, mode in (("half", whole), ("half_pooled", small)):
            with mode.cheap():
                row[f"{label}_macs"] = macs_of(net, 3, HALF) / full
    except RunError as error:
        row["refused"] = str(error).splitlines()[0][:160]
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| net | parameters | half / full, operations | with pooled filters | pooled of"
        " convolutions | weights of layers | refused |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        count = f"{row['parameters'] / 1e6:.1f} M" if "parameters" in row else ""
        ratio, pooled = row.get("half_macs"), row.get("half_pooled_macs")
        cells = [
            f"{row['library']} `{row['net']}`",
            count,
            "" if ratio is None else f"{ratio:.2f}",
            "" if pooled is None else f"{pooled:.2f}",
            f"{row['pooled']} of {row['convolutions']}" if "pooled" in row else "",
            f"{100 * row['maskable']:.0f} %" if "maskable" in row else "",
            row.get("refused", "").replace("|", "/"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def put(table: str, name: str) -> None:
    """Put a table into the page, between the marks of its name."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    before, rest = PAGE.read_text().split(begin)
    PAGE.write_text(before + begin + table + end + rest.split(end)[1])


def versions() -> dict[str, str]:
    """Of the libraries and of torch."""
    return {name: library(name).__version__ for name in FAMILIES} | {"torch": torch.__version__}


def main() -> None:
    """Try all nets, write the file, and put the table into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    rows = []
    for source, names in FAMILIES.items():
        for name in names:
            rows.append(tried(source, name))
            print(rows[-1], flush=True)
            about = {"versions": versions(), "full": FULL, "half": HALF}
            out.write_text(json.dumps({**about, "rows": rows}, indent=1))
    put(table(rows), "tried")


if __name__ == "__main__":
    main()
