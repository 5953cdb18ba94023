"""How many units of selective convolution nets of timm and torchvision have; the table of docs.

A unit is a batch norm, a ReLU that alone reads it, and a convolution that alone reads that, of
stride 1, which keeps the size; ``share`` is that of their multiply-accumulates for one image.

    python -m tests.bench.selective_units --out tests/bench/results/selective_units_DATE.json
"""

import argparse
import json
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from models.core.errors import RunError
from models.dynamic_downsampling.cheap_mode import NORMS
from models.nets.build import build_net
from models.nets.layers import CONV, ConvCall, evaluate, pair
from tests.bench.nets_tried import CLASSES, FAMILIES, FULL, put, versions

RELUS = (functional.relu, functional.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)


class Value(NamedTuple):
    """What a call gave: by what, from which value, and who has read it; the tensor keeps its id."""

    tensor: Tensor
    func: Any
    source: "Value | None"
    readers: list[Any]


class Reader(TorchFunctionMode):
    """Notes for each convolution whether it is the only reader of a ReLU of a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[int, Value] = {}
        self.convs: list[tuple[ConvCall, int, Value | None]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        known = [value for x in read if (value := self.values.get(id(x)))]
        out = func(*args, **kwargs)
        if not isinstance(out, Tensor | tuple | list):
            return out  # a size, a flag: nothing was computed with the values
        for value in known:
            value.readers.append(func)
        if func in CONV:
            call = ConvCall(*args, **kwargs)
            macs = prod(out.shape[2:]) * call.weight.numel()
            self.convs.append((call, macs, self.values.get(id(call.input))))
        for x in tree_leaves(out):
            if isinstance(x, Tensor):  # one that was written in place is another value from here
                self.values[id(x)] = Value(x, func, known[0] if known else None, [])
        return out


def is_unit(call: ConvCall, value: Value | None) -> bool:
    """Whether a convolution could be a unit: what it reads, and who reads it too."""
    if value is None or value.func not in RELUS or len(value.readers) != 1:
        return False
    norm = value.source
    if norm is None or norm.func not in NORMS or len(norm.readers) != 1:
        return False
    kernel = call.weight.shape[-1]
    square = call.weight.shape[-2] == kernel and kernel % 2 == 1
    same = isinstance(call.padding, str) or pair(call.padding) == (kernel // 2,) * 2
    return (
        square and same and pair(call.stride) == pair(call.dilation) == (1, 1) and call.groups == 1
    )


def counted(net: nn.Module) -> dict[str, Any]:
    """Convolutions, those that could be units, and their share of all convolutions' operations."""
    reader = Reader()
    with reader:
        evaluate(net, 3, FULL)
    flags = [is_unit(call, value) for call, _, value in reader.convs]
    macs = [each[1] for each in reader.convs]
    inside = sum(m for m, flag in zip(macs, flags, strict=True) if flag)
    share = inside / sum(macs) if macs else 0.0
    return {"convolutions": len(flags), "units": sum(flags), "share": share}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, those with the largest share first."""
    lines = ["| net | units of convolutions | share of operations |", "| --- | --- | --- |"]
    for row in sorted(rows, key=lambda row: -row["share"]):
        count = f"{row['units']} of {row['convolutions']}"
        lines.append(f"| {row['library']} `{row['net']}` | {count} | {100 * row['share']:.0f} % |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Count in all nets, write the file, and put the table into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    rows = []
    for source, names in FAMILIES.items():
        for name in names:
            try:
                net = build_net({"library": source, "name": name}, CLASSES, 3, FULL)
                rows.append({"library": source, "net": name, **counted(net)})
            except RunError as error:
                print(name, str(error)[:160], flush=True)
    out.write_text(
        json.dumps({"versions": versions(), "size": FULL, "rows": rows}, indent=1) + "\n"
    )
    put(table(rows), "units")


if __name__ == "__main__":
    main()
