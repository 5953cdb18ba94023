"""How far a job is, while it is waited for: one line in a terminal, a bar in a notebook."""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sextant_client.job import Job

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

    def show(self, job: "Job") -> None:
        """Show the job as it is now."""
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


def line(job: "Job") -> str:
    """Name, bar, status and time left in one line without control characters."""
    share = 1.0 if job.status == "succeeded" else job.share or 0.0
    full = round(share * WIDTH)
    left = (job.get("progress") or {}).get("eta_s")
    state = f"{job.status}, {left:.0f} s left" if left and job.status == "running" else job.status
    name = "".join(c for c in str(job.get("name") or job.get("kind")) if c.isprintable())
    return f"{name[:40]} {'█' * full}{'░' * (WIDTH - full)} {share:4.0%} {state}"
