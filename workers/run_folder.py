"""The folder of a run: its spec, its inputs by SHA-256, the checkpoint to go on from."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import IO, Any

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import storage
from app.db.session import make_session
from app.db.tables import Artifact, Dataset, Job, Run, new_id
from app.services import artifacts, datasets, lifecycle, workers
from app.settings import get_settings
from models.core.errors import SpecError
from models.core.spec import ArtifactRef, Spec
from models.stored import load_stored
from workers.spans import RunSpans

COPIED_AT_ONCE_BYTES = 2**30
FOLDER = re.compile(r"job_[0-9a-f]+-r\d+|ds_[0-9a-f]+-\d+|net_[0-9a-f]+-[0-9a-f]+")

log = structlog.get_logger(__name__)


class RefusedError(Exception):
    """The run cannot be started, now or later."""


class MissingInputError(RefusedError):
    """An input of the spec is gone or no longer the bytes that were pinned."""


class SpecRefusedError(RefusedError):
    """This release does not accept the stored spec."""


def path_of(run: Run) -> Path:
    """The folder of a run."""
    return runs_folder() / f"{run.job_id}-r{run.number}"


def runs_folder() -> Path:
    """Where the folders of runs and checks lie."""
    return get_settings().state_dir.resolve() / "runs"


def prepare(run: Run, spans: RunSpans) -> tuple[Path, Job, dict[str, Any]]:
    """Make the folder of a run; its span begins once its job is read.

    Returns:
        The folder, the job, and what of it belongs into the job's lineage.

    Raises:
        MissingInputError: if an input's bytes are gone or changed.
        SpecRefusedError: if this release does not accept the stored spec.
    """
    folder = path_of(run)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "inputs").mkdir(parents=True, mode=0o700)
    (folder / "resume").mkdir()
    with make_session(write=False) as session:
        job = session.get_one(Job, run.job_id)
        spec = _read_spec(job)
        wanted = _inputs(session, job, spec)
        checkpoints = _checkpoints(session, job)
    spans.begin(job)
    (folder / "spec.json").write_text(json.dumps(job.resolved_spec))
    with spans.part("fetch inputs"):
        for sha256, key in wanted.items():
            if not fetch(key, folder / "inputs" / sha256, sha256):
                raise MissingInputError(f"the bytes with sha256 {sha256} have changed in the store")
        resumed = _fetch_checkpoint(run, folder, checkpoints) or _link_resume_input(folder, spec)
    return folder, job, {"input_digests": sorted(wanted), "resumed_from": resumed}


def _read_spec(job: Job) -> Spec:
    try:
        return load_stored(job.resolved_spec)[0]
    except (SpecError, ValueError, TypeError, LookupError, AttributeError) as error:
        hint = "submit the job again, with a spec of this release"
        raise SpecRefusedError(f"the stored spec is refused: {error}; {hint}") from error


def prepare_check(dataset: Dataset) -> Path:
    """Make the folder in which a child checks an uploaded dataset.

    Raises:
        MissingInputError: if its bytes are damaged.
    """
    folder = check_path_of(dataset)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    request = {"format": dataset.format, "options": dataset.options}
    (folder / "dataset.json").write_text(json.dumps(request))
    if not fetch(str(dataset.storage_key), folder / "content", str(dataset.sha256)):
        raise MissingInputError("the bytes in the store are not those that were uploaded")
    return folder


def check_path_of(dataset: Dataset) -> Path:
    """The folder of a dataset's check."""
    return runs_folder() / f"{dataset.id}-{dataset.failures}"


def prepare_net(tenant_id: str, model: ArtifactRef, request: dict[str, Any], worker: str) -> Path:
    """Make the folder in which a child keeps a net loaded.

    Args:
        tenant_id: whose net.
        model: its file, with its SHA-256.
        request: what the child reads.
        worker: id of this worker; the folder goes when it is gone.

    Raises:
        MissingInputError: if the file has changed.
        ServiceError: if it is gone.
    """
    folder = runs_folder() / f"{new_id('net')}-{worker.rpartition('-')[2]}"
    (folder / "inputs").mkdir(parents=True, mode=0o700)
    try:
        (folder / "serve.json").write_text(json.dumps(request))
        _fetch_net(tenant_id, model, folder / "inputs" / str(model.sha256))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _fetch_net(tenant_id: str, model: ArtifactRef, path: Path) -> None:
    with make_session(write=False) as session:
        key = artifacts.open_input(session, tenant_id, model)
    if not fetch(key, path, str(model.sha256)):
        raise MissingInputError(f"the bytes of {model.artifact} have changed in the store")


def fetch(key: str, path: Path, sha256: str) -> bool:
    """Copy stored bytes to ``path``, read-only; False if they are damaged.

    Never a link: a child runs as the user who owns the store, and could write or lock it.
    """
    local = storage.local_path(key)
    with path.open("wb") as file:
        if local is None:
            file.writelines(storage.open(key))
        else:
            _copy(local, file)
    if _sha256(path) == sha256:
        path.chmod(0o400)
        return True
    path.unlink()
    return False


def _copy(source: Path, target: IO[bytes]) -> None:
    """Copy a file; where the file system can, both share their blocks until one changes."""
    with source.open("rb") as file:
        try:
            while os.copy_file_range(file.fileno(), target.fileno(), COPIED_AT_ONCE_BYTES):
                pass
        except (AttributeError, OSError):  # macOS, or between file systems that cannot
            file.seek(0)
            target.seek(0)
            shutil.copyfileobj(file, target)


def _inputs(session: Session, job: Job, spec: Spec) -> dict[str, str]:
    """Storage key by SHA-256 of every reference that has bytes; built-in sets have none."""
    keys: dict[str, str] = {}
    for _pointer, ref in spec.references():
        if ref.sha256 is None:
            continue
        if isinstance(ref, ArtifactRef):
            keys[ref.sha256] = artifacts.open_input(session, job.tenant_id, ref)
        else:
            keys[ref.sha256] = datasets.open_input(session, job.tenant_id, ref)
    return keys


def _checkpoints(session: Session, job: Job) -> list[Artifact]:
    """Checkpoints of earlier runs of the same job, newest first."""
    query = select(Artifact).where(
        Artifact.job_id == job.id, Artifact.role == "checkpoint", Artifact.status == "ready"
    )
    return sorted(session.scalars(query), key=lambda row: row.step or 0, reverse=True)


def _fetch_checkpoint(run: Run, folder: Path, checkpoints: list[Artifact]) -> str | None:
    """Fetch the newest checkpoint whose bytes are intact; warn the user of damaged ones."""
    for row in checkpoints:
        if fetch(row.storage_key, folder / "resume" / Path(row.name).name, str(row.sha256)):
            return row.name
        message = f"{row.name} is damaged; falling back to the checkpoint before it"
        warning = {"code": "checkpoint_corrupt", "message": message}
        with make_session() as session:
            lifecycle.add_event(session, run.job_id, "warning", warning, run)
    return None


def _link_resume_input(folder: Path, spec: Spec) -> str | None:
    """Link the checkpoint of another job that the spec names, if any."""
    ref = spec.resume_from
    if ref is None or ref.sha256 is None:
        return None
    source = folder / "inputs" / ref.sha256
    os.link(source, folder / "resume" / Path(ref.artifact).name)
    return f"{ref.job}/{ref.artifact}"


def sweep() -> None:
    """Remove the folders that killed workers left: of runs that are over and of checks.

    What is being prepared, runs or is checked has an open row, whichever worker it belongs to;
    a net that is loaded belongs to a worker that lives.
    """
    left = [path for path in runs_folder().glob("*") if FOLDER.fullmatch(path.name)]
    for path in left:
        with make_session(write=False) as session:
            over = _is_over(session, *path.name.rsplit("-", 1))
        if over:
            shutil.rmtree(path, ignore_errors=True)
            log.info("run_folder_swept", folder=path.name)


def _is_over(session: Session, row_id: str, number: str) -> bool:
    if row_id.startswith("job_"):
        run = session.get(Run, (row_id, int(number.removeprefix("r"))))
        return run is None or run.ended_at is not None
    if row_id.startswith("net_"):
        return not any(row.id.endswith(f"-{number}") for row in workers.live(session))
    dataset = session.get(Dataset, row_id)
    return dataset is None or dataset.status != "checking" or dataset.failures != int(number)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
