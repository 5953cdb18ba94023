"""A job as a run of TensorBoard: its metrics, its pictures, its spec."""

import json
import re
from contextlib import closing
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sextant_client.exports.event_files import EventFile
from sextant_client.exports.points import names_of, points_of
from sextant_client.transports import Client

UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
ID_SHOWN = 8  # last characters of a job's id, behind its name
FILE = "events.out.tfevents.{at_s}.sextant"


def write(client: Client, job_id: str, folder: Path) -> Path:
    """Write the event file of a job; one of an earlier export is replaced when this one is whole.

    Args:
        client: of the service.
        job_id: which job.
        folder: the ``--logdir``; the run is a folder in it, named after the job.

    Returns:
        The folder of the run.
    """
    job = client.get(job_id)
    run = _folder(job, folder)
    run.mkdir(parents=True, exist_ok=True)
    began_s = _seconds(job["created_at"])
    target = run / FILE.format(at_s=int(began_s))
    part = run / f".{target.name}.part"
    with closing(EventFile(part, began_s)) as file:
        file.text("spec", f"```json\n{json.dumps(job['resolved_spec'], indent=1)}\n```", began_s)
        for name in names_of(client, job_id):
            for point in points_of(client, job_id, name):
                file.scalar(name, point.value, point.step, point.at_s)
        _pictures(client, job, file)
    part.replace(target)
    return run


def _folder(job: dict[str, Any], folder: Path) -> Path:
    """Named after the job, whose name may change: an earlier export keeps its folder."""
    end = job["id"][-ID_SHOWN:]
    earlier = sorted(folder.glob(f"*-{end}"))
    name = UNSAFE.sub("-", job["name"] or job["kind"]).strip("-.") or "job"
    return earlier[0] if earlier else folder / f"{name}-{end}"


def _pictures(client: Client, job: dict[str, Any], file: EventFile) -> None:
    pictures = [each for each in client.artifacts(job["id"]) if each["name"].endswith(".png")]
    with TemporaryDirectory(prefix="sextant-") as scratch:
        for each in pictures:
            path = client.download(job["id"], each["name"], Path(scratch) / "picture.png")
            at_s = _seconds(each["created_at"])
            file.picture(
                each["name"].removesuffix(".png"), path.read_bytes(), each["step"] or 0, at_s
            )
            path.unlink()


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
