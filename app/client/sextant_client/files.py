"""Files of a job, by name or by role."""

from __future__ import annotations  # so that help() names types in short

from pathlib import Path
from typing import Any

from sextant_client import loading
from sextant_client.answers import ArtifactRead
from sextant_client.asking import listing
from sextant_client.calling import Call, OfAsyncClient, OfClient
from sextant_client.flow import Flow

Listed = list[ArtifactRead]  # inside of the classes `list` is their method


class FileCalls:
    """What a file of a job can do.

    Args:
        client: that carries it out.
        job_id: whose.
        name: of the file; or a role, of which the last file is meant.
    """

    def __init__(self, client: Any, job_id: str, name: str) -> None:
        self._client = client
        self._job_id = job_id
        self.name = name

    @Call
    def load(self) -> Flow[Any]:
        """Its content as what it is.

        Tensors by name of safetensors (of torch, or else NumPy), arrays of npy and npz, the object
        of JSON, a table of CSV (pandas, polars, or else rows), a picture (Pillow, or else bytes),
        text; bytes of all others.
        """
        return loading.load(self._job_id, self.name)

    @Call
    def save(self, to: Path | str = ".", *, overwrite: bool = False) -> Flow[Path]:
        """Fetch it into a file or folder, as :meth:`sextant_client.Client.download`; its path."""
        return loading.save(self._job_id, self.name, Path(to), overwrite=overwrite)


class File(FileCalls, OfClient):
    """A file of a job."""


class AsyncFile(FileCalls, OfAsyncClient):
    """A file of a job of :class:`sextant_client.AsyncClient`."""


class FilesCalls:
    """What the files of a job can do.

    Args:
        client: that carries it out.
        job_id: whose.
    """

    def __init__(self, client: Any, job_id: str) -> None:
        self._client = client
        self._job_id = job_id

    @Call
    def list(self) -> Flow[Listed]:
        """All of them: ``name, role, size_bytes, sha256, step, ...``."""
        return listing(f"/v1/jobs/{self._job_id}/artifacts")


class Files(FilesCalls, OfClient):
    """Files of a job, by name or by role."""

    def __getitem__(self, name: str) -> File:
        """One file; whether it is there, the service says when it is asked for."""
        return File(self._client, self._job_id, name)


class AsyncFiles(FilesCalls, OfAsyncClient):
    """Files of a job of :class:`sextant_client.AsyncClient`."""

    def __getitem__(self, name: str) -> AsyncFile:
        """One file; whether it is there, the service says when it is asked for."""
        return AsyncFile(self._client, self._job_id, name)
