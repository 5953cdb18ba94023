"""Nets and the state of a training in one safetensors file each; nothing is ever unpickled.

A file holds tensors and, in its header, one JSON under ``sextant``. Final weights are the plain
``state_dict`` of the net. A checkpoint holds ``net.*``, ``momentum.*``, ``extra.*`` and ``rng.*``;
its JSON tells step, epoch, best and history. Only torch's random streams are kept: nothing in
``models`` draws from those of Python or numpy.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.core.errors import DataError, DivergedError
from models.core.finite import HINT, check_figures
from models.core.json_text import parse_json

KEY = "sextant"
FORMAT = 1


def name_of(step: int) -> str:
    """File name of a checkpoint; sorting names sorts steps."""
    return f"checkpoints/step-{step:08d}.safetensors"


def write(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write a file that is either whole or absent, whatever happens meanwhile.

    Args:
        path: of the file.
        tensors: by name, of any shapes [...].
        description: JSON of the header.

    Raises:
        DivergedError: if a tensor or a number of the description is not finite.
    """
    check_finite(tensors, path.name)
    check_figures(dict(description), path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = json.dumps({"format": FORMAT, **description}, allow_nan=False)
    save_file(plain, part, metadata={KEY: header})
    _sync(part)
    part.replace(path)
    _sync(path.parent)


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse NaN and infinities; the host waits once for each device.

    Args:
        tensors: by name, of any shapes [...]; integers are passed over.
        where: what they are of, for the message.

    Raises:
        DivergedError: naming the first tensor that is not finite.
    """
    by_device: dict[torch.device, dict[str, Tensor]] = {}
    for name, x in tensors.items():
        if x.is_floating_point():
            by_device.setdefault(x.device, {})[name] = x.isfinite().all()
    for flags in by_device.values():
        finite = torch.stack(list(flags.values())).tolist()
        if not all(finite):
            name = list(flags)[finite.index(False)]
            raise DivergedError(f"not finite in {where}: {name}", hint=HINT)


def _sync(path: Path) -> None:
    """Force a file's bytes or a folder's names to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors on the CPU and description of a file of :func:`write`.

    Raises:
        DataError: if the file is damaged, of another kind or version, or not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            description = parse_json((file.metadata() or {}).get(KEY, "null"), path.name)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{path.name} is damaged or no safetensors file: {error}",
            hint="take another checkpoint of the same job",
        ) from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise DataError(
            f"{path.name} was not written by this version of the service",
            hint="name an artifact of role weights or checkpoint",
        )
    try:
        check_finite(tensors, path.name)
    except DivergedError as error:  # written by an earlier release
        raise DataError(str(error), hint="its training diverged: name another job's") from error
    return tensors, description


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix.``, without it.

    Tensors keep their shapes [...].
    """
    start = len(prefix) + 1
    return {
        name[start:]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")
    }


def digest_of(net: nn.Module) -> str:
    """SHA-256 of all tensors of a net, in the order of its state, in hex."""
    total = hashlib.sha256()
    for tensor in net.state_dict().values():
        total.update(tensor.cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def random_state(device: str) -> dict[str, Tensor]:
    """State of torch's global random streams.

    Bytes, uint8 [n]: ``rng.cpu`` and, on a GPU, ``rng.cuda``.
    """
    state = {"rng.cpu": torch.get_rng_state()}
    if device == "cuda":
        state["rng.cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(tensors: Mapping[str, Tensor], device: str) -> None:
    """Undo what happened to the random streams since :func:`random_state`.

    ``tensors`` holds uint8 [n] of that function, among others.
    """
    torch.set_rng_state(tensors["rng.cpu"])
    if device == "cuda" and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"])
