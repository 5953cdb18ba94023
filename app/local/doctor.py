"""``sextant doctor``: looks at everything the service needs, with a way out for what is amiss."""

import platform
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from packaging.requirements import Requirement
from sqlalchemy.exc import SQLAlchemyError

from app.db import migrate
from app.db.session import get_engine, make_session
from app.local.address import local_url
from app.local.up import find_gpus
from app.queue import make_redis
from app.services import workers
from app.settings import get_settings

DISK_MIN_GB = 2.0
EXTRAS = {"worker": "jobs run here", "embedded": "sextant up has a broker", "samples": "demo"}


class Finding(NamedTuple):
    """What a check found; ``ok`` is None where something optional is not there."""

    check: str
    ok: bool | None
    found: str
    hint: str = ""


def examine(only: Sequence[str] | None = None) -> list[Finding]:
    """Carry out all checks, or those named in ``only``.

    Raises:
        ValueError: if there is no check of that name.
    """
    if unknown := set(only or ()) - CHECKS.keys():
        raise ValueError(f"no check {', '.join(sorted(unknown))}; there are {', '.join(CHECKS)}")
    return [
        finding for name, check in CHECKS.items() if not only or name in only for finding in check()
    ]


def _python() -> list[Finding]:
    found = f"{platform.python_version()} in {sys.prefix}"
    return [Finding("python", sys.version_info >= (3, 11), found)]


def _packages() -> list[Finding]:
    wanted = [Requirement(text) for text in requires("sextant") or []]
    findings = [_requirements("packages", [each for each in wanted if _applies(each, "")])]
    for extra, purpose in EXTRAS.items():
        listed = [each for each in wanted if not _applies(each, "") and _applies(each, extra)]
        found = _requirements(f"extra {extra}", listed)
        hint = f"needed so that {purpose}: pip install 'sextant[{extra}]'"
        findings.append(found if found.ok else found._replace(ok=None, hint=hint))
    return findings


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _requirements(check: str, wanted: Sequence[Requirement]) -> Finding:
    wrong = []
    for each in wanted:
        try:
            found = version(each.name)
        except PackageNotFoundError:
            wrong.append(f"{each.name} is missing")
        else:
            if not each.specifier.contains(found, prereleases=True):
                wrong.append(f"{each.name} is {found}, not {each.specifier}")
    if wrong:
        hint = "pip install -c constraints.txt . brings the tested versions"
        return Finding(check, ok=False, found="; ".join(wrong), hint=hint)
    return Finding(check, ok=True, found=f"{len(wanted)} as required")


def _gpu() -> list[Finding]:
    gpus = find_gpus()
    if gpus:
        return [Finding("gpu", ok=True, found=", ".join(gpus))]
    return [Finding("gpu", ok=None, found="no NVIDIA GPU or no driver", hint="jobs use the CPU")]


def _disk() -> list[Finding]:
    folder = get_settings().state_dir.resolve()
    there = next(each for each in (folder, *folder.parents) if each.is_dir())
    free_gb = shutil.disk_usage(there).free / 1e9
    hint = "" if free_gb >= DISK_MIN_GB else "free space, or move SEXTANT_STATE_DIR elsewhere"
    return [Finding("disk", free_gb >= DISK_MIN_GB, f"{free_gb:.1f} GB free in {there}", hint)]


def _database() -> list[Finding]:
    settings = get_settings()
    shown = get_engine().url.render_as_string(hide_password=True)
    path = get_engine().url.database or ""
    if get_engine().dialect.name == "sqlite" and not Path(path).is_file():
        hint = f"`sextant up` makes it; or set SEXTANT_STATE_DIR (now {settings.state_dir})"
        return [Finding("database", ok=None, found=f"{shown} is not there yet", hint=hint)]
    try:
        revision, head = migrate.current(get_engine()), migrate.head()
    except SQLAlchemyError as error:
        reason = str(error).splitlines()[0]
        return [Finding("database", ok=False, found=reason, hint="check SEXTANT_DATABASE_URL")]
    hint = "" if revision == head else "start the API or a worker of this version: they migrate"
    return [Finding("database", revision == head, f"{shown} at revision {revision}", hint)]


def _broker() -> list[Finding]:
    if not get_settings().broker_url:
        hint = "`sextant up` brings its own; elsewhere set SEXTANT_BROKER_URL"
        return [Finding("broker", ok=None, found="no SEXTANT_BROKER_URL", hint=hint)]
    try:
        make_redis().ping()
    except Exception as error:  # of a library that only app.queue knows
        hint = "check SEXTANT_BROKER_URL; without a broker jobs start up to 5 s later"
        return [Finding("broker", ok=False, found=str(error), hint=hint)]
    return [Finding("broker", ok=True, found="answers")]


def _api() -> list[Finding]:
    url = local_url(get_settings())
    hint = "start it with `sextant up`, or look into logs/api.log of the state directory"
    try:
        answer = httpx.get(f"{url}/readyz", timeout=5, trust_env=False)
    except httpx.TransportError:
        return [Finding("api", ok=False, found=f"nothing answers at {url}", hint=hint)]
    parts = ", ".join(f"{name} {value}" for name, value in answer.json().items())
    return [Finding("api", answer.is_success, f"{url}: {parts}", "" if answer.is_success else hint)]


def _workers() -> list[Finding]:
    return [_living("workers", lambda _: True, "none on any machine")]


def _worker() -> list[Finding]:
    """A worker on this machine, for the health check of its container."""
    here = socket.gethostname()
    return [_living("worker", lambda worker: worker.host == here, f"none on {here}")]


def _living(check: str, counts: Callable[[Any], bool], nobody: str) -> Finding:
    try:
        with make_session(write=False) as session:
            found = [each for each in workers.live(session) if counts(each)]
    except SQLAlchemyError:
        return Finding(check, ok=False, found="the database does not tell", hint="see database")
    if not found:
        hint = "start one with `sextant worker`; jobs wait until then"
        return Finding(check, ok=False, found=nobody, hint=hint)
    shown = ", ".join(f"{each.id} ({each.slots_free} of {each.slots} free)" for each in found)
    return Finding(check, ok=True, found=shown)


CHECKS: dict[str, Callable[[], list[Finding]]] = {
    "python": _python,
    "packages": _packages,
    "gpu": _gpu,
    "disk": _disk,
    "database": _database,
    "broker": _broker,
    "api": _api,
    "workers": _workers,
    "worker": _worker,
}
