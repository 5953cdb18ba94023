"""Files of a job as what they are: tensors, arrays, tables, pictures, text."""

import csv
import importlib
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from sextant_client import download
from sextant_client.answers import ArtifactRead
from sextant_client.asking import listing
from sextant_client.errors import ApiError
from sextant_client.flow import Flow

TEXTS = (".txt", ".md", ".html", ".log", ".svg", ".asc")
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp")


def find(job_id: str, name: str) -> Flow[ArtifactRead]:
    """The artifact of a name; or the last one of a role.

    Raises:
        ApiError: with code ``not_found``, naming those that there are.
    """
    artifacts: list[ArtifactRead] = yield from listing(f"/v1/jobs/{job_id}/artifacts")
    named = [each for each in artifacts if each["name"] == name]
    of_role = [each for each in artifacts if each.get("role") == name]
    if not named and not of_role:
        names = ", ".join(each["name"] for each in artifacts) or "none yet"
        raise ApiError.own("not_found", f"{job_id} has no artifact {name!r}; it has {names}")
    return (named or of_role)[-1]


def save(job_id: str, name: str, to: Path, *, overwrite: bool) -> Flow[Path]:
    """Fetch a file by name or role; its path."""
    artifact = yield from find(job_id, name)
    return (yield from download.artifact(artifact, to, None, overwrite=overwrite))


def load(job_id: str, name: str) -> Flow[Any]:
    """The content of a file, fetched and checked against its SHA-256."""
    artifact = yield from find(job_id, name)
    with TemporaryDirectory(prefix="sextant-") as folder:
        target = Path(folder) / PurePosixPath(artifact["name"]).name
        path = yield from download.artifact(artifact, target, None, overwrite=True)
        return content(path)


def content(path: Path) -> Any:
    """What a file holds, by the ending of its name; bytes where that says nothing."""
    ending = path.suffix.lower()
    if ending in TEXTS:
        return path.read_text()
    if ending in PICTURES:
        return _picture(path.read_bytes())
    readers: dict[str, Callable[[Path], Any]] = {
        ".safetensors": _tensors,
        ".npy": _arrays,
        ".npz": _arrays,
        ".json": lambda file: json.loads(file.read_text()),
        ".csv": _table,
    }
    return readers.get(ending, Path.read_bytes)(path)


def first_of(*names: str) -> Any:
    """The first of these modules that is installed; None where none is."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def _tensors(path: Path) -> Any:
    reader = first_of("safetensors.torch", "safetensors.numpy")
    if reader is None:
        raise ImportError("reading weights takes the package safetensors: pip install safetensors")
    return reader.load_file(path)


def _arrays(path: Path) -> Any:
    """An array, or a dictionary of arrays."""
    numpy = first_of("numpy")
    if numpy is None:
        raise ImportError("reading arrays takes the package numpy: pip install numpy")
    loaded = numpy.load(path, allow_pickle=False)
    return dict(loaded) if path.suffix.lower() == ".npz" else loaded


def _table(path: Path) -> Any:
    frames = first_of("pandas", "polars")
    if frames is not None:
        return frames.read_csv(path)
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _picture(raw: bytes) -> Any:
    images = first_of("PIL.Image")
    if images is None:
        return raw
    picture = images.open(BytesIO(raw))
    picture.load()
    return picture
