"""Where things lie in the store, and what the files of runs may be called."""

import re
from pathlib import Path

LOG_KEY = re.compile(r"t/[^/]+/j/[^/]+/r\d+/logs/run-\d+\.log")
NAME = re.compile(r"[A-Za-z0-9._/-]{1,200}")
MEDIA_TYPES = {
    ".asc": "text/plain; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".json": "application/json",
    ".log": "text/plain; charset=utf-8",
    ".png": "image/png",
    ".tif": "image/tiff",
    ".txt": "text/plain; charset=utf-8",
    ".zip": "application/zip",
}


def job_folder(tenant_id: str, job_id: str) -> str:
    """Folder of everything a job left in the store."""
    return f"t/{tenant_id}/j/{job_id}"


def run_key(tenant_id: str, job_id: str, number: int, name: str) -> str:
    """Storage key of a file of a run."""
    return f"{job_folder(tenant_id, job_id)}/r{number}/{name}"


def log_key(tenant_id: str, job_id: str, number: int) -> str:
    """Storage key of a run's log, while it grows and afterwards."""
    return run_key(tenant_id, job_id, number, f"logs/run-{number}.log")


def checked_name(name: str) -> str:
    """``name`` itself.

    Raises:
        ValueError: if it is no clean relative path of at most 200 plain characters.
    """
    if not NAME.fullmatch(name) or not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise ValueError(f"artifact name {name!r}: use [A-Za-z0-9._/-]{{1,200}}, no '..'")
    return name


def media_type(name: str) -> str:
    """Media type by extension; what browsers would run is never among them."""
    return MEDIA_TYPES.get(Path(name).suffix.lower(), "application/octet-stream")


def dataset_folder(tenant_id: str, dataset_id: str) -> str:
    """Folder of every upload of a dataset."""
    return f"t/{tenant_id}/d/{dataset_id}"


def dataset_key(tenant_id: str, dataset_id: str, upload: str) -> str:
    """Storage key of one upload of a dataset; a later upload never touches an earlier one."""
    return f"{dataset_folder(tenant_id, dataset_id)}/content-{upload}"
