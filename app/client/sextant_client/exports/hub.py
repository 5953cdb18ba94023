"""A trained net as a folder that Hugging Face's hub takes."""

import json
from pathlib import Path

from sextant_client.transports import Client

# names of a job, and those that the hub and timm look for
NAMES = {"config.json": "config.json", "model_card.md": "README.md"}
MORE = ("net.onnx", "net.pt2")
WEIGHTS = "weights.safetensors"


def write(client: Client, job_id: str, folder: Path) -> Path:
    """Fetch the net of a training: ``model.safetensors``, ``README.md``, ``config.json``, programs.

    ``config.json`` of a net of timm is the training's; of other nets it names kind and spec of the
    job, which are what rebuilds the net.

    Args:
        client: of the service.
        job_id: of a training.
        folder: made where it is not there; files of an earlier export are replaced.

    Raises:
        ValueError: if the job has no ``weights.safetensors``.
    """
    job = client.get(job_id)
    there = {each["name"] for each in client.artifacts(job_id)}
    if WEIGHTS not in there:
        have = ", ".join(sorted(there)) or "none yet"
        raise ValueError(f"{job_id} has no {WEIGHTS}, so no net to export; its files: {have}")
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {WEIGHTS: "model.safetensors", **NAMES, **dict(zip(MORE, MORE, strict=True))}
    for name, target in wanted.items():
        if name not in there:
            (folder / target).unlink(missing_ok=True)  # of another job
        else:
            client.download(job_id, name, folder / target, overwrite=True)
    if "config.json" not in there:
        about = {"library_name": "sextant", "kind": job["kind"], "spec": job["resolved_spec"]}
        (folder / "config.json").write_text(json.dumps(about, indent=1))
    return folder
