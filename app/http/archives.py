"""All files of a job as one zip that is made while it is sent: nothing is kept of it anywhere."""

import io
import zipfile
from collections.abc import Iterator, Sequence

from fastapi.responses import StreamingResponse

from app import storage
from app.db.tables import Artifact

EARLIEST = (1980, 1, 1, 0, 0, 0)  # of a zip
READABLE = 0o600 << 16  # mode of the files once unpacked


class _Outlet(io.RawIOBase):
    """Takes what the zip writes and gives it away; it cannot go back."""

    def __init__(self) -> None:
        self._written = bytearray()

    def writable(self) -> bool:
        """It is written to."""
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # ty: ignore[incompatible-method-override]  # bytes alone come here
        """Keep the bytes until they are taken."""
        self._written += data
        return len(data)

    def take(self) -> bytes:
        """What was written since the last call."""
        taken = bytes(self._written)
        self._written.clear()
        return taken


def send(job_id: str, about: bytes, rows: Sequence[Artifact]) -> StreamingResponse:
    """A zip with every file of a job in a folder named like it, and beside it what it was.

    Args:
        job_id: of the job.
        about: content of the JSON file beside the folder.
        rows: its ready files.
    """
    headers = {
        "Content-Disposition": f'attachment; filename="{job_id}.zip"',
        "X-Content-Type-Options": "nosniff",
    }
    chunks = zipped(job_id, about, rows)
    return StreamingResponse(chunks, headers=headers, media_type="application/octet-stream")


def zipped(folder: str, about: bytes, rows: Sequence[Artifact]) -> Iterator[bytes]:
    """The bytes of the zip, a chunk of the store at a time; the memory stays flat."""
    outlet = _Outlet()
    with zipfile.ZipFile(outlet, "w", zipfile.ZIP_STORED) as archive:
        members = [(f"{folder}.json", iter([about]))]
        members += [(f"{folder}/{row.name}", storage.open(row.storage_key)) for row in rows]
        for name, chunks in members:
            info = zipfile.ZipInfo(name, EARLIEST)
            info.external_attr = READABLE
            with archive.open(info, "w", force_zip64=True) as member:
                for chunk in chunks:
                    member.write(chunk)
                    yield outlet.take()
        yield outlet.take()
    yield outlet.take()
