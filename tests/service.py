"""The real service for tests: API and workers as processes, and wires that can be cut."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import sqlalchemy as sa
import uvicorn

from app.db.session import make_engine
from app.db.tables import Tenant, Worker
from app.main import create_app
from models.catalog import kinds
from models.core import confine
from tests.conftest import empty
from tests.smallest import smallest

STUB = Path(__file__).parent / "workers" / "stub.py"
START_S = END_S = 90.0  # of a process, of a job, on a machine that others use too
ANSWER_S = 60.0  # of a request
# every time of the service, a tenth of its default
QUICK = {
    "LEASE_S": 3.0,
    "LEASE_RENEW_S": 0.4,
    "LEASE_STOP_S": 1.6,
    "LEASE_KILL_S": 2.2,
    "WORKER_TICK_S": 0.1,
    "WORKER_DISPATCH_S": 0.5,
    "WORKER_POLL_S": 0.2,
    "WORKER_STOP_S": 1.0,
    "WORKER_SAVE_S": 3.0,
    "WORKER_SHUTDOWN_S": 3.0,
    "WORKER_TERM_S": 0.5,
    "WORKER_BACKOFF_S": 0.2,
}


def free_port() -> int:
    """A port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def connect(url: str, **headers: str) -> httpx.Client:
    """A client that waits as long as a machine may stand still that others use too."""
    return httpx.Client(base_url=url, headers=headers, timeout=ANSWER_S)


def wait_until(holds: Callable[[], Any], timeout_s: float = 20.0, what: str = "") -> Any:
    """Poll until ``holds`` gives something true; its value."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout_s} s: {what or holds}")


class Service:
    """API and workers over one database, one broker and one state folder.

    With ``behaviour`` the children are the stub of that behaviour; without, the real methods.
    """

    def __init__(
        self,
        folder: Path,
        database_url: str,
        broker_url: str = "",
        *,
        behaviour: str | None = None,
        steps: int = 20,
        step_s: float = 0.02,
        **settings: Any,
    ) -> None:
        self.folder = folder
        self.database_url = database_url
        self.state = folder / "state"
        self.journal = folder / "triton" / "journal"  # where confined children may write
        self.journal.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.processes: list[subprocess.Popen[bytes]] = []
        values: dict[str, Any] = {
            "STATE_DIR": self.state,
            "DATABASE_URL": database_url,
            "BROKER_URL": broker_url,
            "BIND": f"127.0.0.1:{self.port}",
            "AUTH_DISABLED": "true",
        }
        values |= QUICK | settings
        if behaviour:
            values["WORKER_COMMAND"] = f"{sys.executable} {STUB} {behaviour}"
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SEXTANT_")}
        self.env = clean | {f"SEXTANT_{name}": str(value) for name, value in values.items()}
        self.env |= {
            "LC_STUB_STEPS": str(steps),
            "LC_STUB_STEP_S": str(step_s),
            "LC_STUB_JOURNAL": str(self.journal),
            "TRITON_CACHE_DIR": str(self.journal.parent),
        }
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"Content-Type": "application/json"},  # without keys every POST needs it
            timeout=ANSWER_S,
            limits=httpx.Limits(max_connections=256),
        )

    # -- processes ---------------------------------------------------------------------------

    def _start(self, name: str, *command: str, **env: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}-{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env=self.env | env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def start_api(self, **env: str) -> subprocess.Popen[bytes]:
        """Start the API and wait until it answers."""
        process = self._start("api", "app.serve", **env)
        wait_until(lambda: self._answers(process), START_S, "the API answers")
        return process

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, self.logs()
        with contextlib.suppress(httpx.TransportError):
            return self.client.get("/healthz").status_code == 200
        return False

    def start_worker(self, **env: str) -> subprocess.Popen[bytes]:
        """Start a worker and wait for its first heartbeat."""
        process = self._start("worker", "workers", **env)
        wait_until(
            lambda: self._beats(process.pid), START_S, f"the worker's heartbeat\n{self.logs()}"
        )
        return process

    def _beats(self, pid: int) -> bool:
        engine = make_engine(self.database_url)
        with engine.connect() as connection:
            found = connection.scalar(sa.select(Worker.id).where(Worker.pid == pid))
        engine.dispose()
        return found is not None

    def logs(self) -> str:
        """What all processes wrote, for a failing test."""
        parts = sorted(self.folder.glob("*.log"))
        return "\n".join(f"== {part.name}\n{part.read_text()[-6000:]}" for part in parts)

    def stop(self) -> None:
        """End everything, politely first; nothing may be left."""
        self.client.close()
        self._end(self.processes)

    def begin_again(self) -> None:
        """End all but the API, which was started first, and forget all jobs and files."""
        workers = self.processes[1:]
        self._end(workers)
        del self.processes[1:]
        wait_until(lambda: not self.children(), 10, "no child left")
        engine = make_engine(self.database_url)
        empty(engine, keep=(Tenant.__tablename__,))  # the API makes its tenant as it starts
        engine.dispose()
        for path in (self.state / "store").iterdir():
            shutil.rmtree(path)
        for path in self.journal.iterdir():
            path.unlink()

    def _end(self, processes: list[subprocess.Popen[bytes]]) -> None:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGCONT)
            process.terminate()
        for process in processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def children(self, *, inits: bool = False) -> list[psutil.Process]:
        """Living processes of runs in this service's state folder, or their inits."""
        return [
            process
            for process in psutil.process_iter(["cwd", "status", "cmdline"])
            if str(process.info["cwd"] or "").startswith(str(self.state / "runs"))
            and process.info["status"] != psutil.STATUS_ZOMBIE
            and any(word == confine.__file__ for word in process.info["cmdline"] or ()) is inits
        ]

    # -- jobs --------------------------------------------------------------------------------

    def submit(self, **body: Any) -> str:
        """POST a job with the smallest spec of the first kind; its id."""
        answer = self.post_job(**body)
        assert answer.status_code == 201, f"{answer.text}\n{self.logs()}"
        return answer.json()["id"]

    def post_job(
        self, headers: dict[str, str] | None = None, url: str = "/v1/jobs", **body: Any
    ) -> httpx.Response:
        """POST a job with the smallest spec of the first kind."""
        spec = smallest(next(iter(kinds())))
        return self.client.post(url, json={"spec": spec} | body, headers=headers)

    def read(self, job_id: str) -> dict[str, Any]:
        """The job object."""
        return self.client.get(f"/v1/jobs/{job_id}").json()

    def wait(self, job_id: str, *statuses: str, timeout_s: float = END_S) -> dict[str, Any]:
        """Wait for one of the statuses; any final one by default."""
        wanted = statuses or ("succeeded", "failed", "cancelled")

        def reached() -> dict[str, Any] | None:
            job = self.read(job_id)
            return job if job["status"] in wanted else None

        try:
            return wait_until(reached, timeout_s)
        except AssertionError as error:
            text = f"{job_id} is {self.read(job_id)}, not {wanted}\n{self.logs()}"
            raise AssertionError(text) from error

    def wait_step(self, job_id: str, step: int, timeout_s: float = 20) -> None:
        """Wait until the job's progress has reached a step."""

        def reached() -> bool:
            return ((self.read(job_id)["progress"] or {}).get("step") or 0) >= step

        try:
            wait_until(reached, timeout_s)
        except AssertionError as error:
            text = f"{self.read(job_id)} has not reached step {step}\n{self.logs()}"
            raise AssertionError(text) from error

    def hold(self) -> None:
        """Let the children of ``steps`` wait halfway, however slow the rest of the machine is."""
        (self.journal / "hold").touch()

    def go(self) -> None:
        """Let them go on."""
        (self.journal / "hold").unlink()

    def artifacts(self, job_id: str, role: str | None = None) -> list[dict[str, Any]]:
        """Ready artifacts of a job, by name."""
        found = self.client.get(f"/v1/jobs/{job_id}/artifacts?limit=200").json()["data"]
        return [artifact for artifact in found if role in (None, artifact["role"])]

    # -- what must hold after every fault ----------------------------------------------------

    def check(self, *job_ids: str) -> None:
        """No job lost or run twice at once, no process left, store and rows agree."""
        assert not list(self.journal.glob("*.overlap")), "two runs of one job at once"
        for job_id in job_ids:
            self._check_job(job_id)
        wait_until(lambda: not self.children(), 10, f"no child left: {self.children()}")

    def _check_job(self, job_id: str) -> None:
        job = self.read(job_id)
        assert job["status"] in ("succeeded", "failed", "cancelled"), job
        page = self.client.get(f"/v1/jobs/{job_id}/events?limit=200").json()
        seqs = [event["seq"] for event in page["data"]]
        assert seqs == list(range(1, len(seqs) + 1))
        finals = [
            event
            for event in page["data"]
            if event["type"] == "status" and event["data"]["status"] == job["status"]
        ]
        assert page["has_more"] or len(finals) == 1
        for artifact in self.artifacts(job_id):
            content = self.client.get(f"/v1/jobs/{job_id}/artifacts/{artifact['name']}").content
            assert len(content) == artifact["size_bytes"]


class Wire:
    """A proxy of a server's unix socket that can be cut and joined again.

    It listens at a path, or at a host and port; what passes arrives ``delay_s`` later.
    """

    def __init__(
        self, listen: Path | tuple[str, int], target: Path, *, delay_s: float = 0.0
    ) -> None:
        self.listen, self.target, self._delay_s = listen, target, delay_s
        self._pairs: list[socket.socket] = []
        self._server: socket.socket | None = None
        self.silent = False  # take connections, answer nothing
        self.join()

    def join(self) -> None:
        """Accept connections and pass them on."""
        self._unlink()
        tcp = not isinstance(self.listen, Path)
        self._server = socket.socket(socket.AF_INET if tcp else socket.AF_UNIX)
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._server.bind(self.listen if tcp else str(self.listen))
        self._server.listen(128)
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def cut(self) -> None:
        """Close everything and refuse what comes."""
        if self._server is not None:
            with contextlib.suppress(OSError):
                self._server.shutdown(socket.SHUT_RDWR)
            self._server.close()
        self._unlink()
        for end in self._pairs:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._pairs.clear()

    def _unlink(self) -> None:
        if isinstance(self.listen, Path):
            self.listen.unlink(missing_ok=True)

    def _accept(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = server.accept()[0]
                self._pairs.append(near)
                if self.silent:
                    continue
                far = socket.socket(socket.AF_UNIX)
                far.connect(str(self.target))
                self._pairs.append(far)
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=(*ends, self._delay_s), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, delay_s: float) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            time.sleep(delay_s)
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


def start(server: uvicorn.Server, thread: threading.Thread, limit_s: float = 60.0) -> None:
    """Start the thread of a server and wait until it takes requests.

    Raises:
        RuntimeError: if it ends before (what it logged says why), or needs longer than the limit.
    """
    thread.start()
    end = time.monotonic() + limit_s
    while not server.started:
        if not thread.is_alive() or time.monotonic() > end:
            raise RuntimeError("the API ended" if not thread.is_alive() else "the API hangs")
        time.sleep(0.01)


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """The API in a thread of this process; the block gets its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(create_app(), log_level="error", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        start(server, thread)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
