"""Nets of faces for the package, from a folder of ``terrain_learned``.

    python -m tests.bench.terrain_learned_ship FOLDER [--factors 4,8,16] [--figures FILE]

Of each factor, among the nets trained on all sites, the one with the least loss over its last 60
steps. ``--figures FILE`` writes summaries and errors of every window as one JSON.
"""

import argparse
import json
from pathlib import Path

import torch

from models.core import checkpoint
from models.terrain.learning.face_net import FOLDER, NAME, FaceNet
from tests.bench.terrain_learned import EVERYWHERE

LAST = 60
NAMES = (
    "head.bias", "head.weight", "first.weight", "first.bias", "second.weight", "second.bias",
)  # fmt: skip
KEPT = ("mean", "untrained", "net-0", "tuned")


def figures_of(folder: Path, factor: int) -> dict:
    """The summary, and MAE on wet cells in m by window, water and terrain."""
    windows = {}
    for path in sorted(folder.glob(f"judge-{factor}-*.json")):
        errors = json.loads(path.read_text())["errors"]
        windows[path.stem.removeprefix(f"judge-{factor}-")] = {
            water: {by: float(f"{row[by]['mae_wet_m']:.4g}") for by in KEPT if by in row}
            for water, row in errors.items()
        }
    whole = json.loads((folder / f"summary-{factor}.json").read_text())
    return {"summary": whole, "windows": windows}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--factors", default="4,8,16")
    parser.add_argument("--figures", type=Path)
    options = parser.parse_args()
    figures = {}
    for factor in map(int, options.factors.split(",")):
        paths = sorted(options.folder.glob(f"model-{factor}-net-{EVERYWHERE}-*.json"))
        states = [json.loads(path.read_text()) for path in paths]
        losses = [sum(state["losses"][-LAST:]) / LAST for state in states]
        seed = losses.index(min(losses))
        parameters = states[seed]["parameters"]
        tensors = {name: torch.tensor(p) for name, p in zip(NAMES, parameters, strict=True)}
        FaceNet(factor).load_state_dict(tensors)
        described = {"net": {"name": NAME, "factor": factor}, "steps": states[seed]["step"]}
        checkpoint.write(FOLDER / f"faces-{factor}.safetensors", tensors, described)
        shipped = {"seed": seed, "losses_at_the_end": losses}
        figures[f"factor {factor}"] = figures_of(options.folder, factor) | {"shipped": shipped}
    if options.figures is not None:
        options.figures.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
