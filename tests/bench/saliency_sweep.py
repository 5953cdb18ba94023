"""The paper's two claims on real photographs, with the noise floor, as one sweep job.

    python -m tests.bench.saliency_sweep --out FILE.json [--keep FOLDER]   # about ten minutes
    python -m tests.bench.saliency_sweep --quick
    python -m tests.bench.saliency_sweep --gpu --out FILE.json     # more masks, three seeds
    python -m tests.bench.saliency_sweep --pack FILE.zip; ... --photos FILE.zip

EfficientNet-Lite0 on six photographs of scikit-image and scikit-learn, or of a zip of them where
these packages are missing. FOLDER gets the files of the job (report.html, pictures, tables).
"""

import argparse
import hashlib
import io
import json
import shutil
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from models.core import device as devices
from models.core.run import Run
from models.data import samples
from models.saliency.spec.evaluate import SaliencySweep
from models.saliency.sweep import sweep
from tests.bench.saliency_clock import describe

SPEC: dict[str, Any] = {
    "kind": "saliency.sweep",
    "model": {"pretrained": "efficientnet_lite0"},
    "images": [{"dataset": "photos", "index": index} for index in range(6)],
    "methods": [
        {"id": "occlusion", "window": 32, "stride": 16},
        {"id": "occlusion", "window": 64, "stride": 16},
        {"id": "occlusion", "window": 16, "stride": 16},
        {"id": "rise", "masks": 400, "estimator": "slope", "sampling": "balanced"},
        {"id": "rise", "masks": 400, "grid": 14, "estimator": "slope", "sampling": "balanced"},
        {"id": "feature_ablation", "segments": {"id": "grid", "rows": 14}},
        {"id": "feature_ablation", "segments": {"id": "grid", "rows": 7}},
        {"id": "random"},
        {"id": "edge"},
    ],
    "baselines": [{"id": "black"}, {"id": "white"}, {"id": "gray"}, {"id": "blur"}],
    "graders": [
        {"id": "deletion", "points": 20, "baseline": {"id": "black"}},
        {"id": "deletion", "points": 20, "baseline": {"id": "gray"}},
        {"id": "insertion", "points": 20},
        {"id": "lerf", "points": 20},
    ],
    "seeds": [0, 1],
}


def quick(spec: dict[str, Any]) -> dict[str, Any]:
    """Two photographs, coarse windows, two points."""
    methods = [
        {"id": "occlusion", "window": 112, "stride": 112},
        {"id": "occlusion", "window": 128, "stride": 96},
        {"id": "rise", "masks": 8, "grid": 2},
        {"id": "rise", "masks": 8, "grid": 3},
        {"id": "random"},
    ]
    graders = [grader | {"points": 2} for grader in spec["graders"]]
    small = {"images": spec["images"][:2], "methods": methods, "graders": graders}
    return spec | small | {"baselines": spec["baselines"][:2]}


def more(spec: dict[str, Any]) -> dict[str, Any]:
    """A larger spec for a GPU; more masks lower the noise floor of RISE."""
    methods = [part | ({"masks": 1000} if "masks" in part else {}) for part in spec["methods"]]
    return spec | {"methods": methods, "seeds": [0, 1, 2], "max_rows": 2_000_000}


def pack(path: Path) -> None:
    """The photographs of the sweep as a zip of PNG files."""
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(len(SPEC["images"])):
            content = io.BytesIO()
            Image.fromarray(samples.photo(index)).save(content, "png")
            archive.writestr(f"{index}-{Path(samples.PHOTOS[index]).stem}.png", content.getvalue())


def uploaded(spec: dict[str, Any], photos: Path, folder: Path) -> dict[str, Any]:
    """The same images from a file, like those of an uploaded dataset."""
    digest = hashlib.sha256(photos.read_bytes()).hexdigest()
    (folder / "inputs").mkdir()
    shutil.copy(photos, folder / "inputs" / digest)
    named = {"dataset": "photographs", "sha256": digest}
    return spec | {"images": [named | {"index": ref["index"]} for ref in spec["images"]]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--pack", type=Path)
    parser.add_argument("--photos", type=Path)
    options = parser.parse_args()
    if options.pack:
        pack(options.pack)
        return
    chosen, folder = SPEC, Path(tempfile.mkdtemp())
    chosen = more(chosen) if options.gpu else chosen
    chosen = quick(chosen) if options.quick else chosen
    chosen = uploaded(chosen, options.photos, folder) if options.photos else chosen
    spec = SaliencySweep.model_validate(chosen)
    device = "cuda" if options.gpu and torch.cuda.is_available() else "cpu"
    wall, cpu = time.perf_counter(), time.process_time()
    sweep(spec, Run(folder, device=device))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    report = json.loads((folder / "sweep.json").read_text())
    names = ("design", "effects", "noise", "method_agreement", "grader_agreement",
             "grader_reliability", "winner_changes_with_baseline", "controls_not_beaten",
             "images", "rows")  # fmt: skip
    result = {
        "machine": describe() | devices.describe(device),
        "spec": spec.model_dump(exclude_none=True),
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        **{name: report[name] for name in names},
    }
    print(json.dumps({name: result[name] for name in names[1:2]}, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    if options.keep:
        shutil.copytree(folder, options.keep, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
