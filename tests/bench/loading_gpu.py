"""Training on a GPU from encoded photographs, beside the same training of images that it holds.

    python -m tests.bench.loading_gpu --photographs PHOTOS.tar --make 240
    python -m tests.bench.loading_gpu --photographs PHOTOS.tar --out FILE [--images 30000] [--quick]

The first line writes some JPEGs of ``tests.bench.loading`` (500 x 375 pixels, 60 kB and more) where
the packages with the photographs are; the second repeats them to a set of ``--images`` on the
machine with the GPU. A net of timm is trained as a job would be, in bf16, with all steps at one
size: full, half, a quarter. ``held`` are noise of that size in the GPU's memory, ``stream`` the
photographs; ``decoding`` takes the batches of ``stream`` to the GPU and trains nothing. The three
take turns. Rates are of all steps after the warm-up, ``least`` and ``most`` of windows of them, at
whose ends the host waits for the GPU. ``cores`` are CPU seconds a second over the same steps, of
this process and of those that decode, for the user and in the system; ``faults`` pages that the
latter touched for the first time, an image.
"""

import argparse
import io
import json
import os
import resource
import tarfile
import tempfile
import time
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch

from models.core import device
from models.core.run import Run
from models.data import images
from models.data.images import ImageData
from models.dynamic_downsampling.setup import prepare
from models.dynamic_downsampling.spec import DynamicDownsamplingTrain
from models.dynamic_downsampling.train import fit_cheap
from models.supervised import source
from models.supervised.hooks import SubRun
from tests.bench.loading import photographs
from tests.bench.ranks_gpu import TimedRun
from tests.models.data.pictures import placed

SCALES = {"full": None, "half": 0.5, "quarter": 0.25}
WAYS = ("held", "stream", "decoding")
TESTED = 64  # images


def pack(paths: Path, count: int) -> bytes:
    """A tar of so many pictures, those of another one over and over, in parts train and test."""
    with tarfile.open(paths) as given:
        files = [(each.name, given.extractfile(each).read()) for each in given]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for k in range(count + TESTED):
            name, content = files[k % len(files)]
            label, _, ending = name.partition("/")
            part = "train" if k < count else "test"
            entry = tarfile.TarInfo(f"{part}/{label}/{k}-{ending}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


class WatchedRun(TimedRun):
    """A run that notes what this process and its children have used at the ends of the windows."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.used: list[list[float]] = []

    def checkpoint_due(self) -> bool:
        due = super().checkpoint_due()
        if len(self.times) > len(self.used):
            parent = psutil.Process()
            own, others = parent.cpu_times(), [x.cpu_times() for x in parent.children()]
            sums = [sum(x.user for x in others), sum(x.system for x in others)]
            faults = [minor_faults(x.pid) for x in parent.children()]
            self.used.append([own.user, own.system, *sums, sum(faults)])
        return due

    def watched(self, shown: int) -> dict[str, Any]:
        """Cores at work between the first window and the last, and faults an image."""
        spent = [b - a for a, b in zip(self.used[0], self.used[-1], strict=True)]
        rates = [x / (self.times[-1] - self.times[0]) for x in spent]
        names = ("own_user", "own_system", "decoders_user", "decoders_system")
        cores = dict(zip(names, rates, strict=False))
        return {"cores": cores, "faults": spent[-1] / shown}


def minor_faults(pid: int) -> int:
    """Pages that a process touched for the first time."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


class Bench:
    """One net and one set; a training a case.

    Args:
        options: of the command line.
        folder: for files.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder, self.on = options, folder, device.pick()
        self.warm, self.window, self.windows = (4, 2, 2) if options.quick else (24, 16, 4)
        packed = pack(options.photographs, options.images)
        self.ref, self.bytes = placed(Run(folder), packed), len(packed)

    def spec(self, scale: float | None) -> DynamicDownsamplingTrain:
        """All steps at one size."""
        whole = {"start": 0.0, "end": 1.0, "input_scale": scale}
        schedule = {"type": "list", "intervals": [whole]} if scale else {"type": "off"}
        down = {"schedule": schedule, "kernel_pool": "none", "gradient_probes": 0}
        down |= {"warmup_full_fraction": 0, "refine_fraction": 0} if scale else {}
        return DynamicDownsamplingTrain.model_validate(
            {
                "kind": "dynamic_downsampling.train",
                "model": {"library": "timm", "name": self.options.net},
                "data": self.ref.model_dump(),
                "images": {"image_size": self.options.side, "fit": "crop"},
                "loading": "stream",
                "validation": 0,
                "max_steps": self.warm + self.window * self.windows,
                "batch_size": self.options.batch,
                "optimizer": {"lr": 0.01},
                "precision": "bf16" if self.on == "cuda" else "fp32",
                "channels_last": True,
                "downsample": down,
                "export": False,
            }
        )

    @cached_property
    def held(self) -> ImageData:
        """Noise of the size of full images, on the device: half of what a training takes."""
        side = self.options.side
        count = (self.warm + self.window * self.windows) * self.options.batch // 2
        made = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (count, side, side, 3), generator=made, dtype=torch.uint8)
        labels = torch.arange(count) % 2
        test = [pixels[:TESTED], labels[:TESTED]]
        return images.from_tensors([pixels, labels], test, ["0", "1"], self.on)

    def run(self, way: str, scale: float | None) -> dict[str, Any]:
        """Images a second of one case, and when its first batch was trained on."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            run = WatchedRun(Path(folder), self.on, self.warm, self.window)
            (run.dir / "inputs").symlink_to(self.folder / "inputs")
            spec, started = self.spec(scale), time.perf_counter()
            data = self.held if way == "held" else source.load(spec, run)
            loaded_s = time.perf_counter() - started
            if way == "decoding":
                times = self.decode(data, spec, run)
            else:
                fit_cheap(prepare(spec, data, run), run, SubRun(saves_checkpoints=False))
                times = run.times
            if way != "held":
                data.train._loader.close()
            spans = [after - before for before, after in pairwise(times)]
            rates = [self.window * self.options.batch / span for span in spans]
            return {
                "images_per_s": self.window * self.options.batch * len(spans) / sum(spans),
                "least": min(rates),
                "most": max(rates),
                "loaded_s": loaded_s,
                "to_first_window_s": times[0] - started,
                "warnings": run.warned,
            } | run.watched(self.window * self.options.batch * len(spans))

    def decode(
        self, data: ImageData, spec: DynamicDownsamplingTrain, run: WatchedRun
    ) -> list[float]:
        """Take the batches of a training to the device, and no more."""
        setup = prepare(spec, data, run)
        size, batch = setup.decoded_size(0), self.options.batch
        chosen = torch.arange(self.warm * batch + self.window * self.windows * batch)
        parts = (chosen % len(data.train)).split(batch)
        for _ in data.train.read(lambda: (data.train.requests(part, size) for part in parts)):
            run.checkpoint_due()
        return run.times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--make", type=int, help="photographs to write")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--net", default="resnet50")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.make:
        with tarfile.open(options.photographs, "w") as archive:
            for name, content in photographs(options.make):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        return
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        result: dict[str, Any] = {
            "device": device.describe(bench.on),
            "cores": len(os.sched_getaffinity(0)),
            "setting": {"net": options.net, "side": options.side, "batch": options.batch},
            "mean_bytes": bench.bytes / (options.images + TESTED),
            "cases": [],
        }
        for _ in range(options.repeats):
            for size, scale in SCALES.items():
                for way in WAYS:
                    case = {"way": way, "size": size} | bench.run(way, scale)
                    case["peak_memory_bytes"] = 1024 * max(
                        resource.getrusage(who).ru_maxrss
                        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
                    )
                    result["cases"].append(case)
                    print(case, flush=True)
                    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
