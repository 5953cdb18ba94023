"""The paper's two claims on real photographs, with the noise floor beside them: one sweep job.

    python -m tests.bench.saliency_sweep --out FILE.json [--keep FOLDER]   # about ten minutes
    python -m tests.bench.saliency_sweep --quick

EfficientNet-Lite0 on six photographs of scikit-image and scikit-learn. FOLDER gets the files of the
job (report.html, pictures, tables).
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from models.core.run import Run
from models.saliency.spec_grade import SaliencySweep
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    spec = SaliencySweep.model_validate(quick(SPEC) if options.quick else SPEC)
    folder = Path(tempfile.mkdtemp())
    wall, cpu = time.perf_counter(), time.process_time()
    sweep(spec, Run(folder))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    told = json.loads((folder / "sweep.json").read_text())
    names = ("divergence", "method_agreement", "grader_agreement", "grader_reliability",
             "winner_changes_with_baseline", "controls_not_beaten", "images", "rows")  # fmt: skip
    result = {
        "machine": describe(),
        "spec": spec.model_dump(exclude_none=True),
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        **{name: told[name] for name in names},
    }
    print(json.dumps({name: result[name] for name in names[:1]}, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    if options.keep:
        shutil.copytree(folder, options.keep, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
