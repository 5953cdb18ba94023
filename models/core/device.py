"""Where a run computes, in which number format, and from which seeds."""

import hashlib
import os
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, version

import torch


def pick() -> str:
    """``cuda`` when a GPU is there, else ``cpu``; under torchrun each process takes its own GPU."""
    if not torch.cuda.is_available():
        return "cpu"
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return "cuda"


def use_threads(count: int | None) -> None:
    """Compute with so many CPU threads; None leaves the number as the process was started."""
    if count is not None:
        torch.set_num_threads(count)


def make_deterministic() -> None:
    """Only algorithms whose results repeat bit for bit on the same device class."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(mode=True)


def tune(device: str) -> None:
    """Let cuDNN time its algorithms once a shape, unless the run must repeat bit for bit."""
    if device == "cuda":
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()


def describe(device: str) -> dict[str, str | int | None]:
    """What a run's figures depend on besides its spec."""
    on_gpu = device.startswith("cuda")
    return {
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
    }


def versions(device: str) -> dict[str, str | int | None]:
    """The release that made a file, None in a checkout that is not installed; :func:`describe`."""
    try:
        release = version("sextant-jobs")
    except PackageNotFoundError:
        release = None
    return {"sextant": release, **describe(device)}


def generator(seed: int, stream: str, index: int) -> torch.Generator:
    """A CPU generator keyed by (seed, stream, index): the same whatever was drawn before.

    Args:
        seed: of the job.
        stream: what the numbers are for; streams do not influence each other.
        index: step, epoch or the like, from 0.
    """
    key = hashlib.blake2b(f"{seed} {stream} {index}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(key) >> 1)


def seed_all(seed: int) -> None:
    """Seed the global streams of torch, from which nets take initial weights and dropout."""
    torch.manual_seed(seed)


def is_bf16(precision: str, device: str) -> bool:
    """Whether a spec's ``precision`` means bfloat16 on this device."""
    if precision == "auto":
        return device == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bf16"


def autocast(precision: str, device: str) -> AbstractContextManager[object]:
    """Context of a forward pass in the spec's precision; weights stay float32."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=is_bf16(precision, device))
