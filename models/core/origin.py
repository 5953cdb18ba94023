"""Where a checkpoint was written: what the bits after it depend on besides the spec."""

from collections.abc import Mapping
from typing import Any

from models.core import device, ranks
from models.core.errors import SpecError
from models.core.run import Run


def describe(run: Run) -> dict[str, Any]:
    """What a checkpoint tells under ``origin``: device, versions, threads, processes."""
    return device.describe(run.device) | {"ranks": ranks.world_size()}


def check(saved: Mapping[str, Any], run: Run) -> None:
    """Compare the origin of a checkpoint with this run; tell of what changes results.

    Another number of processes is refused: each has batch-norm statistics and augmentation of its
    own, so the run would be neither the old one nor a new one.

    Args:
        saved: description of the checkpoint; of an earlier release without ``origin``.
        run: takes the warning.

    Raises:
        SpecError: if the number of processes is another.
    """
    here, there = describe(run), saved.get("origin")
    if there is None:
        return
    if there["ranks"] != here["ranks"]:
        raise SpecError(
            f"the checkpoint was written by {there['ranks']} processes, this run has"
            f" {here['ranks']}: ask for as many GPUs, or leave resume_from out",
            pointer="/resume_from",
        )
    changed = [f"{name} {there[name]} -> {x}" for name, x in here.items() if there[name] != x]
    if changed:
        run.warn(
            "resumed_elsewhere", f"results may differ in their last bits: {'; '.join(changed)}"
        )
