"""The Cramer-Wold distance as others write it, and what both benchmarks of lcw share."""

import json
import math
import platform
import subprocess
from pathlib import Path

import torch

from models.core.device import describe


def _phi(r2, gamma, dim):
    return (1 + r2 / gamma / (2 * dim - 3)) ** -0.5


def cdist_form(x, y, gamma):
    """Squared torch.cdist, three full matrices: the authors' final code (commit 3b553b2)."""
    n, d = x.shape
    own, other, cross = (
        _phi(torch.cdist(a, b) ** 2, gamma, d).sum() for a, b in ((x, x), (y, y), (x, y))
    )
    return (own + other - 2 * cross) / (2 * n * n * math.sqrt(math.pi * gamma))


def gram_form(x, y, gamma):
    """|a|^2 + |b|^2 - 2 a.b, three full matrices: the authors' first code and CWAE's."""
    n, d = x.shape

    def mean(a, b):
        r2 = a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * a @ b.T
        return _phi(r2.clamp_min(0), gamma, d).sum()

    return (mean(x, x) + mean(y, y) - 2 * mean(x, y)) / (2 * n * n * math.sqrt(math.pi * gamma))


def machine(device="cpu"):
    """What the figures depend on."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    figures = {
        "python": platform.python_version(),
        **describe(device),
        "commit": commit.stdout.strip(),
    }
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        figures["cpu"] = names[0].partition(":")[2].strip() if names else "unknown"
    return figures


def keep(path, results):
    """Write what there is so far."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1))
