"""Public image sets from their official addresses, pinned by checksum and converted to npz.

The checksums are MD5: those that the authors of the sets publish, or torchvision pins. They tell
damage and change, as much as the sources allow; nothing downloaded is unpickled or executed.
"""

import hashlib
import tarfile
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, NamedTuple
from urllib.error import HTTPError, URLError

import numpy as np
import scipy.io

from models.core.errors import DataError, DataMissingError
from models.core.run import Run
from models.data.arrays import ImageArrays, Labelled
from models.data.idx import read_idx
from models.data.labels import checked_labels

TIMEOUT_S = 60.0
CHUNK_BYTES = 2**20
RANGE_IGNORED, RANGE_BEYOND_END = 200, 416


class SourceFile(NamedTuple):
    """A file on the web and the MD5 of its bytes."""

    url: str
    md5: str


class PublicSet(NamedTuple):
    """The files of a set and the function that reads them, in their order."""

    sources: tuple[SourceFile, ...]
    read: Callable[[list[Path]], ImageArrays]


def fetch(name: str, folder: Path, run: Run) -> dict[str, object]:
    """Download a public set into ``folder`` and convert it to ``<name>.npz`` there.

    A download that broke off goes on where it stopped; files appear under their names only when
    they are whole and their checksum is right.

    Returns:
        ``file``, ``format``, ``sha256`` and ``size_bytes`` of the npz, and the counts ``train``,
        ``test`` and ``classes``.

    Raises:
        DataError: if there is no such set, or a file is not the one whose checksum is pinned.
        DataMissingError: if an address does not answer.
        StoppedError: between two chunks, if a stop was requested.
    """
    if name not in SETS:
        raise DataError(f"no public set is called {name!r}; there are {', '.join(SETS)}")
    sources, read = SETS[name]
    folder.mkdir(parents=True, exist_ok=True)
    arrays = read([download(source, folder, run) for source in sources])
    path = folder / f"{name}.npz"
    write_npz(path, arrays)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "file": path.name,
        "format": "npz",
        "sha256": digest,
        "size_bytes": path.stat().st_size,
        "train": len(arrays.train.labels),
        "test": len(arrays.test.labels),
        "classes": len(arrays.classes),
    }


def download(source: SourceFile, folder: Path, run: Run) -> Path:
    """One file, checked; not fetched again when it is there.

    Raises:
        DataError: if its checksum is wrong; the bytes are discarded.
        DataMissingError: if the address does not answer or breaks off.
    """
    path = folder / source.url.rpartition("/")[2]
    if path.is_file() and _md5(path) == source.md5:
        return path
    part = path.with_name(f"{path.name}.part")
    try:
        _transfer(source.url, part, run)
    except (URLError, OSError) as error:
        raise DataMissingError(
            f"{source.url}: {error}", hint="try again; a broken download is continued"
        ) from error
    if (digest := _md5(part)) != source.md5:
        part.unlink()
        raise DataError(f"{source.url}: MD5 {digest}, expected {source.md5}; not used")
    part.replace(path)
    return path


def _transfer(url: str, part: Path, run: Run) -> None:
    """Append what is missing to ``part``, in chunks."""
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})  # noqa: S310  # from the table below
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
    except HTTPError as error:
        with error:
            if error.code == RANGE_BEYOND_END:  # nothing is missing: the checksum will tell
                return
            raise
    with answer, part.open("ab" if answer.status != RANGE_IGNORED else "wb") as file:
        done = file.tell()
        total = done + int(answer.headers.get("Content-Length") or 0)
        while chunk := answer.read(CHUNK_BYTES):
            file.write(chunk)
            done += len(chunk)
            run.progress(done, max(done, total), phase=part.stem, unit="byte")
            run.check_stop()


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def write_npz(path: Path, arrays: ImageArrays) -> None:
    """An npz that ``models.data.files`` reads; whole or absent."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        np.savez_compressed(
            file,
            train_images=arrays.train.images,
            train_labels=arrays.train.labels,
            test_images=arrays.test.images,
            test_labels=arrays.test.labels,
            classes=np.array(arrays.classes),
        )
    part.replace(path)


def _idx(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return read_idx(file, path.name)


def _idx_set(classes: list[str]) -> Callable[[list[Path]], ImageArrays]:
    def read(paths: list[Path]) -> ImageArrays:
        images, labels, test_images, test_labels = map(_idx, paths)
        return ImageArrays(
            _labelled(images[..., None], labels, paths[1]),
            _labelled(test_images[..., None], test_labels, paths[3]),
            classes,
        )

    return read


def _labelled(images: np.ndarray, labels: np.ndarray, path: Path) -> Labelled:
    return Labelled(np.ascontiguousarray(images), checked_labels(labels, len(images), path.name))


def _cifar_set(
    train: tuple[str, ...], test: tuple[str, ...], names: str, label_bytes: int
) -> Callable[[list[Path]], ImageArrays]:
    """Reader of CIFAR's binary version: records of labels, then 3 x 32 x 32 bytes."""

    def read(paths: list[Path]) -> ImageArrays:
        with tarfile.open(paths[0]) as archive:
            classes = _member(archive, names).decode("ascii").split()
            parts = [
                _records(
                    b"".join(_member(archive, name) for name in members), label_bytes, paths[0]
                )
                for members in (train, test)
            ]
        return ImageArrays(parts[0], parts[1], classes)

    return read


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    try:
        file: IO[bytes] | None = archive.extractfile(name)
    except KeyError:
        file = None
    if file is None:
        raise DataError(f"the archive has no file {name}")
    return file.read()


def _records(content: bytes, label_bytes: int, path: Path) -> Labelled:
    """Images and the last label byte of each record: CIFAR-100 puts the coarse class first."""
    length = label_bytes + 3 * 32 * 32
    if len(content) % length:
        raise DataError(f"{path.name}: {len(content)} bytes are no records of {length}")
    records = np.frombuffer(content, np.uint8).reshape(-1, length)
    images = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return _labelled(images, records[:, label_bytes - 1], path)


def _svhn(paths: list[Path]) -> ImageArrays:
    """Street View House Numbers: Matlab files, [h, w, c, n]; label 10 is the digit 0."""
    parts = []
    for path in paths:
        content = scipy.io.loadmat(path)
        images = content["X"].transpose(3, 0, 1, 2)
        parts.append(_labelled(images, content["y"].ravel() % 10, path))
    return ImageArrays(parts[0], parts[1], [str(digit) for digit in range(10)])


def _files(base: str, *names_and_md5: tuple[str, str]) -> tuple[SourceFile, ...]:
    return tuple(SourceFile(f"{base}/{name}", md5) for name, md5 in names_and_md5)


CIFAR = "https://www.cs.toronto.edu/~kriz"
SETS: Mapping[str, PublicSet] = {
    "cifar10": PublicSet(
        _files(CIFAR, ("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")),
        _cifar_set(
            tuple(f"cifar-10-batches-bin/data_batch_{index}.bin" for index in range(1, 6)),
            ("cifar-10-batches-bin/test_batch.bin",),
            "cifar-10-batches-bin/batches.meta.txt",
            label_bytes=1,
        ),
    ),
    "cifar100": PublicSet(
        _files(CIFAR, ("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8")),
        _cifar_set(
            ("cifar-100-binary/train.bin",),
            ("cifar-100-binary/test.bin",),
            "cifar-100-binary/fine_label_names.txt",
            label_bytes=2,
        ),
    ),
    "mnist": PublicSet(
        _files(
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            ("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            ("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
            ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
            ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
        ),
        _idx_set([str(digit) for digit in range(10)]),
    ),
    "fashion_mnist": PublicSet(
        _files(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
            ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
            ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
        _idx_set(
            [
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ]
        ),
    ),
    "svhn": PublicSet(
        _files(
            "http://ufldl.stanford.edu/housenumbers",
            ("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
            ("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
        ),
        _svhn,
    ),
}
