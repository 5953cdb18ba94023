"""How far a job is, while it is waited for: one line in a terminal, a bar in a notebook."""

import importlib
import sys
from collections.abc import Mapping
from typing import Any

WIDTH = 30


def notebook() -> Any:
    """The display of IPython where this runs in a notebook; None elsewhere."""
    if "IPython" not in sys.modules:
        return None
    shell = importlib.import_module("IPython").get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    return importlib.import_module("IPython.display")


class Bar:
    """Shows a job again and again in the same place.

    Args:
        wanted: whether at all; None: where somebody can see it.
    """

    def __init__(self, wanted: bool | None = None) -> None:
        self._display = notebook()
        seen = self._display is not None or sys.stderr.isatty()
        self._wanted = seen if wanted is None else wanted
        self._handle: Any = None

    def show(self, job: Mapping[str, Any]) -> None:
        """Show the job object as it is now."""
        if not self._wanted:
            return
        if self._display is None:
            sys.stderr.write(f"\r\x1b[K{line(job)}")
            sys.stderr.flush()
        elif self._handle is None:
            self._handle = self._display.display(job, display_id=True)
        else:
            self._handle.update(job)

    def close(self) -> None:
        """Leave the line."""
        if self._wanted and self._display is None:
            sys.stderr.write("\n")


def share_of(job: Mapping[str, Any]) -> float | None:
    """How much of a job is done, from 0 to 1; None where that is not known."""
    progress = job.get("progress") or {}
    step, total = progress.get("step"), progress.get("total_steps")
    return step / total if step is not None and total else None


def line(job: Mapping[str, Any]) -> str:
    """Name, bar, status and time left in one line without control characters."""
    state = job["status"]
    share = 1.0 if state == "succeeded" else share_of(job) or 0.0
    full = round(share * WIDTH)
    left = (job.get("progress") or {}).get("eta_s")
    if left and state == "running":
        state = f"running, {left:.0f} s left"
    name = "".join(c for c in str(job.get("name") or job.get("kind")) if c.isprintable())
    return f"{name[:40]} {'█' * full}{'░' * (WIDTH - full)} {share:4.0%} {state}"
