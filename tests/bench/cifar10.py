"""CIFAR-10 for benchmarks, as one small npz of the JPEG bytes of its parquet files.

python -m tests.bench.cifar10 FOLDER_WITH_PARQUET cifar10.npz     # for a machine without pyarrow
"""

import io
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from models.data import images
from models.data.images import ImageData

CLASSES = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
]  # fmt: skip


def pack(folder: Path, out: Path) -> None:
    """Write the JPEG bytes of both splits, their offsets and labels as one npz."""
    from pyarrow import parquet

    arrays = {}
    for split in ("train", "test"):
        table = parquet.read_table(next(folder.glob(f"*{split}*.parquet")))
        names = table.column_names
        images = table[next(name for name in names if name.startswith("im"))].to_pylist()
        labels = table[next(name for name in names if name.startswith("label"))].to_numpy()
        blobs = [image["bytes"] for image in images]
        arrays[f"{split}_bytes"] = np.frombuffer(b"".join(blobs), np.uint8)
        arrays[f"{split}_ends"] = np.cumsum([len(blob) for blob in blobs])
        arrays[f"{split}_labels"] = labels.astype(np.int64)
    np.savez_compressed(out, **arrays)


def load(path: Path, device: str, subset: int | None = None) -> ImageData:
    """Images decoded and put on the device; ``subset`` takes the first training images."""
    packed = np.load(path)
    parts = []
    for split in ("train", "test"):
        ends = packed[f"{split}_ends"]
        stop = len(ends) if split == "test" else min(len(ends), subset or len(ends))
        blob = packed[f"{split}_bytes"].tobytes()
        starts = [0, *ends[:-1]]
        pixels = [
            np.asarray(Image.open(io.BytesIO(blob[starts[i] : ends[i]])).convert("RGB"))
            for i in range(stop)
        ]
        labels = packed[f"{split}_labels"][:stop]
        parts.append([torch.from_numpy(np.stack(pixels)), torch.from_numpy(labels)])
    return images.from_tensors(*parts, CLASSES, device)


if __name__ == "__main__":
    pack(Path(sys.argv[1]), Path(sys.argv[2]))
