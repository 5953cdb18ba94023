"""``sextant doctor``: which protections hold for a child of a worker."""

import os
import platform
import sys
from pathlib import Path

from app.local.findings import Finding
from app.settings import get_settings
from models.core import confine

SIGNALS_SINCE = 6  # version of Landlock


def examine() -> list[Finding]:
    """Which protections hold for a child that is started on this machine (SECURITY.md)."""
    if sys.platform != "linux":
        hint = "run the worker on Linux, for example by docker-compose.yml"
        return [Finding("containment", ok=None, found=f"none on {sys.platform}", hint=hint)]
    if not get_settings().worker_confined:
        return [Finding("containment", None, "SEXTANT_WORKER_CONFINED is false", "unset it")]
    return [_files(), _signals(), _network(), _processes(), _user()]


def _files() -> Finding:
    if version := confine.landlock_version():
        return Finding("children: files", ok=True, found=f"only their own (Landlock {version})")
    hint = "a kernel from 5.13 on with landlock in /sys/kernel/security/lsm"
    return Finding("children: files", ok=None, found="all of this user: no Landlock", hint=hint)


def _signals() -> Finding:
    if confine.landlock_version() >= SIGNALS_SINCE:
        return Finding("children: signals", ok=True, found="only to their own processes")
    shown = "to all processes of this user"
    return Finding("children: signals", None, shown, hint="a kernel from 6.12 on, with Landlock")


def _network() -> Finding:
    if get_settings().worker_network:
        return Finding("children: network", None, "open", hint="unset SEXTANT_WORKER_NETWORK")
    if confine.can_filter():
        shown = "none; runs of several GPUs have all of it"
        return Finding("children: network", ok=True, found=shown)
    shown = f"open: no filter of system calls for {platform.machine()}"
    return Finding("children: network", None, shown, hint="x86_64 or aarch64, or a firewall")


def _processes() -> Finding:
    """The limit of the control group that this process is in; a unit of systemd has its own."""
    limits = [path.read_text().strip() for path in _groups() if path.is_file()]
    numbers = [int(limit) for limit in limits if limit.isdigit()]
    if numbers:
        shown = f"at most {min(numbers)}, by the control group"
        return Finding("children: processes", ok=True, found=shown)
    hint = "`pids` in docker-compose.yml, or TasksMax= in the unit of systemd"
    return Finding("children: processes", None, "no limit", hint)


def _groups() -> list[Path]:
    paths = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers in ("", "pids"):
            folder = Path("/sys/fs/cgroup", controllers, name.lstrip("/"))
            paths += [each / "pids.max" for each in (folder, *folder.parents)]
    return paths


def _user() -> Finding:
    if os.geteuid():
        return Finding("children: user", ok=True, found="not root")
    hint = "run the worker as a user of its own, as docker-compose.yml does"
    return Finding("children: user", None, "root, without its privileges", hint)
