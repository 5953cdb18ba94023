"""Jobs for other tools: TensorBoard, MLflow, Hugging Face's hub.

Over the API alone, with no package of theirs.
"""

from pathlib import Path
from urllib.parse import urlsplit

from sextant_client.exports import hub, mlflow, tensorboard
from sextant_client.transports import Client

FORMS = "tensorboard:FOLDER, hf:FOLDER, mlflow://HOST[:PORT][?experiment=NAME] or mlflow+http://..."


def export(client: Client, job_id: str, to: str, *, files: bool = True) -> str:
    """Write a job where another tool reads it; again, it brings that up to date.

    Args:
        client: of the service that has the job.
        job_id: which job; it may still run.
        to: ``tensorboard:FOLDER``; ``hf:FOLDER``; ``mlflow://HOST`` (TLS) or ``mlflow+http://HOST``
            of a tracking server, with ``?experiment=NAME`` (``sextant`` where left out).
        files: whether the job's files go to MLflow too.

    Returns:
        Where it is now: a folder, or the address of a run.

    Raises:
        ValueError: for a target of another form, or one that refuses the job.
        ApiError: if the service refuses something.
    """
    scheme, _, rest = to.partition(":")
    if scheme == "tensorboard" and rest:
        return str(tensorboard.write(client, job_id, Path(rest)))
    if scheme == "hf" and rest:
        return str(hub.write(client, job_id, Path(rest)))
    if scheme in mlflow.SCHEMES and urlsplit(to).hostname:
        return mlflow.send(client, job_id, to, files=files)
    raise ValueError(f"cannot export to {to!r}; give {FORMS}")
