"""``sextant doctor``: checks everything the service needs; each finding that is not ok has a hint.

Works without the extra `server` too: checks that need its packages report that it is missing.
"""

import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import httpx
from packaging.requirements import Requirement

from app.local import protections
from app.local.address import local_url
from app.local.findings import Finding
from app.local.gpus import find_gpus
from app.local.install import DISTRIBUTION, install_command
from app.settings import get_settings

DISK_MIN_GB = 2.0
NOT_NEEDED = "not needed here: see SEXTANT_URL"
EXTRAS = {
    "server": "this machine can serve",
    "worker": "jobs run here",
    "embedded": "sextant up has a broker",
    "samples": "the demo and the built-in datasets have their files",
}


def examine(only: Sequence[str] | None = None) -> list[Finding]:
    """Carry out all checks, or those named in ``only``.

    Raises:
        ValueError: if there is no check of that name.
    """
    if unknown := set(only or ()) - CHECKS.keys():
        raise ValueError(f"no check {', '.join(sorted(unknown))}; there are {', '.join(CHECKS)}")
    return [finding for name in CHECKS if not only or name in only for finding in _examine(name)]


def _examine(name: str) -> list[Finding]:
    try:
        return CHECKS[name]()
    except ModuleNotFoundError as error:
        found = f"{error.name} is not installed"
        return [Finding(name, ok=None, found=found, hint=install_command("server"))]


def _python() -> list[Finding]:
    interpreter = f"{platform.python_version()} in {sys.prefix}"
    return [Finding("python", sys.version_info >= (3, 11), interpreter)]


def _packages() -> list[Finding]:
    findings = [_installed("packages", required())]
    for extra, purpose in EXTRAS.items():
        finding = _installed(f"extra {extra}", required(extra))
        hint = f"needed so that {purpose}: {install_command(extra)}"
        findings.append(finding if finding.ok else finding._replace(ok=None, hint=hint))
    return findings


def required(extra: str = "") -> list[Requirement]:
    """Requirements of an extra, those of the extras it names included; of the base without one."""
    listed = []
    for each in map(Requirement, requires(DISTRIBUTION) or []):
        if (extra and _applies(each, "")) or not _applies(each, extra):
            continue
        if each.name == DISTRIBUTION:
            listed += [inner for named in sorted(each.extras) for inner in required(named)]
        else:
            listed.append(each)
    return listed


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _installed(check: str, wanted: Sequence[Requirement]) -> Finding:
    wrong = []
    for each in wanted:
        try:
            installed = version(each.name)
        except PackageNotFoundError:
            wrong.append(f"{each.name} is missing")
        else:
            if not each.specifier.contains(installed, prereleases=True):
                wrong.append(f"{each.name} is {installed}, not {each.specifier}")
    if wrong:
        return Finding(check, ok=False, found="; ".join(wrong), hint=install_command())
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
    from sqlalchemy.exc import SQLAlchemyError

    from app.db import migrate
    from app.db.session import get_engine

    settings = get_settings()
    shown = get_engine().url.render_as_string(hide_password=True)
    path = get_engine().url.database or ""
    if get_engine().dialect.name == "sqlite" and not Path(path).is_file():
        if _remote():
            return [Finding("database", ok=None, found=NOT_NEEDED)]
        hint = f"`sextant up` makes it; or set SEXTANT_STATE_DIR (now {settings.state_dir})"
        return [Finding("database", ok=None, found=f"{shown} is not there yet", hint=hint)]
    try:
        revision, head = migrate.current(get_engine()), migrate.head()
    except SQLAlchemyError as error:
        reason = str(error).splitlines()[0]
        return [Finding("database", ok=False, found=reason, hint="check SEXTANT_DATABASE_URL")]
    hint = "" if revision == head else "start the API or a worker of this version: they migrate"
    schema = Finding("database", revision == head, f"{shown} at revision {revision}", hint)
    return [schema, *_search()] if schema.ok else [schema]


def _search() -> list[Finding]:
    """Whether PostgreSQL has the index that its role may not have been allowed to make."""
    from app.db.session import make_session
    from app.services import search

    with make_session(write=False) as session:
        if session.get_bind().dialect.name != "postgresql" or search.is_indexed(session):
            return []
    made = "; ".join(search.MAKE)
    missing = "no index of parts of names: `search` reads every name of a tenant"
    return [Finding("database", ok=None, found=missing, hint=f"as a superuser: {made}")]


def _growth() -> list[Finding]:
    """How large the state is and how fast it grows."""
    if not _database()[0].ok:
        return [Finding("growth", ok=None, found="no database at hand", hint="see database")]
    from app.db.session import make_session
    from app.services import growth

    with make_session(write=False) as session:
        size = growth.read(session)
    if size is None:
        return [Finding("growth", ok=None, found="not known yet", hint="a worker notes it hourly")]
    shown = (
        f"database {size.database_bytes / 1e9:.2f} GB, files {size.artifact_bytes / 1e9:.2f} GB, "
        f"{size.jobs} jobs"
    )
    if size.bytes_a_day is None or size.jobs_a_day is None:
        return [Finding("growth", ok=True, found=f"{shown}; its growth is known in an hour")]
    grown = f"{size.bytes_a_day / 1e9:+.3f} GB and {size.jobs_a_day:+.0f} jobs a day"
    return [Finding("growth", ok=True, found=f"{shown}; {grown}, over {size.days:.1f} days")]


def _broker() -> list[Finding]:
    """The broker of the settings, or else what a service that runs says of its own."""
    if _remote() or not get_settings().broker_url:
        return [_broker_there(_service_url())]
    from app.queue import make_redis

    try:
        make_redis().ping()
    except Exception as error:  # of a library that only app.queue knows
        hint = "check SEXTANT_BROKER_URL; without a broker jobs start up to 5 s later"
        return [Finding("broker", ok=False, found=str(error), hint=hint)]
    return [Finding("broker", ok=True, found="answers")]


def _broker_there(url: str) -> Finding:
    try:
        broker = str(_readiness(url).json()["broker"])
    except (httpx.TransportError, ValueError, KeyError):
        hint = "`sextant up` brings its own; elsewhere set SEXTANT_BROKER_URL"
        return Finding("broker", ok=None, found=f"none is set, and {url} does not tell", hint=hint)
    if broker == "ok":
        return Finding("broker", ok=True, found=f"ok, says {url}")
    hint = "jobs start up to 5 s later; `sextant up` brings one with the extra embedded"
    ok = None if broker.startswith("none") else False
    return Finding("broker", ok=ok, found=f"{broker}, says {url}", hint=hint)


def _remote() -> str | None:
    """SEXTANT_URL, where it names another service than that of the state directory."""
    url = os.environ.get("SEXTANT_URL", "").rstrip("/")
    return url if url and url != local_url(get_settings()) else None


def _service_url() -> str:
    return _remote() or local_url(get_settings())


def _readiness(url: str) -> httpx.Response:
    """What a service tells of its parts.

    Raises:
        httpx.TransportError: if nothing answers.
    """
    return httpx.get(f"{url}/readyz", timeout=5, trust_env=False)


def _api() -> list[Finding]:
    url = _service_url()
    hint = "start it with `sextant up`, or look into logs/api.log of the state directory"
    if _remote():
        hint = "check SEXTANT_URL, and the service on its own machine"
    try:
        answer = _readiness(url)
    except httpx.TransportError:
        return [Finding("api", ok=False, found=f"nothing answers at {url}", hint=hint)]
    parts = ", ".join(f"{name} {value}" for name, value in answer.json().items())
    return [Finding("api", answer.is_success, f"{url}: {parts}", "" if answer.is_success else hint)]


def _workers() -> list[Finding]:
    if url := _remote():
        return [_living_there(url)]
    return [_living("workers", lambda _: True, "none on any machine")]


def _living_there(url: str) -> Finding:
    """Workers of another machine's service, as it tells itself."""
    try:
        living = _readiness(url).json()["live_workers"]
    except (httpx.TransportError, ValueError, KeyError):
        return Finding("workers", ok=None, found=f"{url} does not tell", hint="see api")
    hint = "" if living else "start one on a machine of the service; jobs wait until then"
    return Finding("workers", ok=living > 0, found=f"{living} live, says {url}", hint=hint)


def _worker() -> list[Finding]:
    """A worker on this machine, for the health check of its container."""
    if _remote():
        return [Finding("worker", ok=None, found=NOT_NEEDED)]
    here = socket.gethostname()
    return [_living("worker", lambda worker: worker.host == here, f"none on {here}")]


def _living(check: str, counts: Callable[[Any], bool], none: str) -> Finding:
    from sqlalchemy.exc import SQLAlchemyError

    from app.db.session import make_session
    from app.services import workers

    try:
        with make_session(write=False) as session:
            living = [each for each in workers.live(session) if counts(each)]
    except SQLAlchemyError:
        return Finding(check, ok=False, found="the database cannot be read", hint="see database")
    if not living:
        hint = "start one with `sextant worker`; jobs wait until then"
        return Finding(check, ok=False, found=none, hint=hint)
    shown = ", ".join(f"{each.id} ({each.slots_free} of {each.slots} free)" for each in living)
    return Finding(check, ok=True, found=shown)


CHECKS: dict[str, Callable[[], list[Finding]]] = {
    "python": _python,
    "packages": _packages,
    "gpu": _gpu,
    "disk": _disk,
    "containment": protections.examine,
    "database": _database,
    "growth": _growth,
    "broker": _broker,
    "api": _api,
    "workers": _workers,
    "worker": _worker,
}
