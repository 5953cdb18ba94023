"""Fills a database with many jobs, by statements that the server carries out itself.

Every value is a function of the number of its row, so two fills are equal. The newest 2 % of the
jobs wait, but for 50 that run; the others are final. 30 % of the metric rows are of one job.
"""

import json
import math
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import command
from sqlalchemy import Connection, Engine

from app.db import migrate
from app.db.session import make_engine
from models.catalog import kinds
from tests.smallest import smallest

REVISION = "0003"  # the schema that the statements are written for; later ones come by upgrade
TENANT = "tenant_default"
TENANTS = ("tenant_0", "tenant_1", "tenant_2", TENANT)
BASE = "2025-01-01T00:00:00+00:00"
BASE_MS = 1_735_689_600_000
JOB_EVERY_MS = 30_000
RUNNING = 50
LARGEST_SHARE = 0.3  # of the metric rows, all of the first job
STEPS_EACH = 100
LIMITS = {"timeout_s": 86400, "queue_timeout_s": None, "max_runs": 3}
LINEAGE = {"python": "3.11.9", "torch": "2.13.0", "seed": 0}
RESULT = {"loss": 0.25, "accuracy": 0.93, "steps": 1000}
DIALECTS = {
    "postgresql": {
        "hex": "lpad(to_hex({0}), {1}, '0')",
        "time": "(timestamptz '" + BASE + "' + ({0}) * interval '1 millisecond')",
        "json": "CAST({0} AS jsonb)",
        "method": "split_part(kind, '.', 1)",
    },
    "sqlite": {
        "hex": "printf('%0{1}x', {0})",
        "time": "strftime('%Y-%m-%d %H:%M:%f000', '" + BASE + "', (({0}) / 1000.0) || ' seconds')",
        "json": "{0}",
        "method": "substr(kind, 1, instr(kind, '.') - 1)",
    },
}
Columns = dict[str, str]


def fill(url: str, jobs: int, metrics: int, budget_s: float = math.inf) -> dict[str, float]:
    """Make an empty database one with so many rows, at the newest schema.

    Each step is done once, however often this is called: a filling that was ended goes on.

    Returns:
        Seconds of each step; of some only, if no further one may begin since ``budget_s`` is over.
    """
    engine = make_engine(url)
    began = time.monotonic()
    unlimited = engine.execution_options(write=True, limit_s=migrate.LIMIT_S)
    with unlimited.connect() as connection:
        connection.detach()  # steps dispose of the pool meanwhile
        filling = Fill(connection, jobs, metrics)
        done = filling.begin()
        steps = filling.steps() | {
            "upgrade": lambda: migrate.upgrade(engine),
            "positions": lambda: _number_events(engine),
            "analyze": lambda: analyze(engine),
        }
        for name, step in steps.items():
            if name in done:
                continue
            if time.monotonic() - began > budget_s:
                break
            done[name] = filling.carry_out(name, step)
    engine.dispose()
    return done


def is_full(done: dict[str, float]) -> bool:
    """Whether a filling has done its last step."""
    return "analyze" in done


def _number_events(engine: Engine) -> None:
    """Give each event its place in the feed of its tenant, as if none was older than that."""
    number = "row_number() OVER (PARTITION BY tenant_id ORDER BY job_id, seq)"
    unlimited = engine.execution_options(write=True, limit_s=migrate.LIMIT_S)
    with unlimited.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SET statement_timeout = 0"))
        numbered = f"(SELECT job_id, seq, {number} AS n FROM events) AS numbered"  # noqa: S608
        for sql in (
            f"UPDATE events SET position = n FROM {numbered} "  # noqa: S608
            "WHERE numbered.job_id = events.job_id AND numbered.seq = events.seq",
            "INSERT INTO feeds SELECT tenant_id, max(position) FROM events GROUP BY tenant_id",
        ):
            connection.execute(sa.text(sql))
        connection.commit()
    engine.dispose()


def analyze(engine: Engine) -> None:
    """Give the planner its statistics, and PostgreSQL's index scans their map of visible pages."""
    unlimited = engine.execution_options(limit_s=migrate.LIMIT_S, isolation_level="AUTOCOMMIT")
    with unlimited.connect() as connection:
        if connection.dialect.name == "sqlite":
            connection.execute(sa.text("ANALYZE"))
        else:
            connection.execute(sa.text("SET statement_timeout = 0"))
            connection.execute(sa.text("VACUUM ANALYZE"))
    engine.dispose()


class Fill:
    """The statements of one dialect, over a table of numbers ``n``."""

    def __init__(self, connection: Connection, jobs: int, metrics: int) -> None:
        self.connection = connection
        self.jobs, self.metrics = jobs, metrics
        self.largest = int(metrics * LARGEST_SHARE)
        self.waiting = int(jobs * 0.98)  # number of the first job that is not final
        self._words = DIALECTS[connection.dialect.name]

    def begin(self) -> dict[str, float]:
        """Make the tables of ``REVISION``; the steps that were done before, with their seconds."""
        if not sa.inspect(self.connection).has_table("bench_steps"):
            command.upgrade(migrate.alembic_config(self.connection), REVISION)
            self._execute("CREATE TABLE bench_steps (name TEXT, seconds REAL)")
        if self.connection.dialect.name == "postgresql":
            self._execute("SET statement_timeout = 0")
            self._execute("SET session_replication_role = replica")  # no look at each foreign key
        rows = self.connection.execute(sa.text("SELECT name, seconds FROM bench_steps"))
        done = {name: round(seconds, 1) for name, seconds in rows}
        self.connection.commit()
        return done

    def steps(self) -> dict[str, Callable[[], None]]:
        """Fill every table; none takes longer than a few minutes."""
        return {
            "numbers": self._numbers,
            "kinds": self._kinds,
            "tenants": self._tenants,
            "jobs": self._jobs,
            "runs": self._runs,
            "events": self._events,
            "artifacts": self._artifacts,
            "metrics of the largest": self._metrics_of_largest,
            "metrics": self._metrics,
            "end": self._drop,
        }

    def carry_out(self, name: str, step: Callable[[], None]) -> float:
        """Seconds of a step, noted as done."""
        began = time.monotonic()
        step()
        seconds = time.monotonic() - began
        note = "INSERT INTO bench_steps VALUES (:name, :seconds)"
        self._execute(note, name=name, seconds=seconds)
        return round(seconds, 1)

    def _tenants(self) -> None:
        for tenant in TENANTS:
            self._execute(
                "INSERT INTO tenants (id, name, quotas) VALUES (:tenant, :tenant, '{}') "
                "ON CONFLICT DO NOTHING",
                tenant=tenant,
            )

    def _drop(self) -> None:
        for table in ("bench_numbers", "bench_kinds"):
            self._execute(f"DROP TABLE {table}")

    def _execute(self, sql: str, **values: Any) -> None:
        self.connection.execute(sa.text(sql), values)
        self.connection.commit()

    def _insert(self, table: str, columns: Columns, source: str) -> None:
        names, values = ", ".join(columns), ", ".join(columns.values())
        sql = f"INSERT INTO {table} ({names}) SELECT {values} FROM {source}"  # noqa: S608
        self._execute(sql)

    def _form(self, name: str, *values: object) -> str:
        return self._words[name].format(*values)

    def _json(self, value: object) -> str:
        return self._form("json", f"'{json.dumps(value)}'")

    def _time(self, offset_ms: int) -> str:
        return self._form("time", f"n * {JOB_EVERY_MS} + {offset_ms}")

    def job_id(self, n: str) -> str:
        """SQL of the id of the job number ``n``: a UUIDv7 of its time."""
        parts = [
            self._form("hex", f"{BASE_MS} + CAST({n} AS BIGINT) * {JOB_EVERY_MS}", 12),
            self._form("hex", f"{n} % 4096", 3),
            self._form("hex", n, 15),
        ]
        return f"'job_' || {parts[0]} || '7' || {parts[1]} || '8' || {parts[2]}"

    def _numbers(self) -> None:
        most = max(self.jobs, self.largest)
        self._execute("CREATE TABLE bench_numbers (n BIGINT PRIMARY KEY)")
        self._execute(
            "INSERT INTO bench_numbers WITH RECURSIVE numbers(n) AS "
            "(SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :most) "
            "SELECT n FROM numbers",
            most=most,
        )

    def _kinds(self) -> None:
        columns = "i INTEGER PRIMARY KEY, kind TEXT, sent TEXT, resolved TEXT"
        self._execute(f"CREATE TABLE bench_kinds ({columns})")
        for i, (kind, spec) in enumerate(kinds().items()):
            sent = smallest(kind)
            self._execute(
                "INSERT INTO bench_kinds VALUES (:i, :kind, :sent, :resolved)",
                i=i,
                kind=kind,
                sent=json.dumps(sent),
                resolved=spec.model_validate(sent).model_dump_json(),
            )

    def _jobs(self) -> None:
        columns = self._names() | self._states() | self._times()
        columns |= {
            "id": self.job_id("n"),
            "spec": self._form("json", "sent"),
            "resolved_spec": self._form("json", "resolved"),
            "resources": self._json({"device": "auto"}),
            "limits": self._json(LIMITS),
            "device": "'auto'",
            "gpus": "0",
            "queue": "'default'",
            "priority": "5",
            "failures": "0",
            "cancel_save": "TRUE",
            "lineage": self._json(LINEAGE),
        }
        source = f"bench_numbers JOIN bench_kinds ON i = n * 17 % {len(kinds())}"
        self._insert("jobs", columns, f"{source} WHERE n < {self.jobs} ORDER BY n")

    def _names(self) -> Columns:
        """Four tenants, one with 70 %; names and labels of few jobs, of one, and of none."""
        team = '\'{"team": "t\' || (n * 31 % 10) || \'"'
        return {
            "tenant_id": "CASE WHEN n * 13 % 10 < 7 THEN 'tenant_default' "
            "ELSE 'tenant_' || (n * 13 % 10 % 3) END",
            "kind": "kind",
            "method": self._words["method"],
            "name": "CASE WHEN n % 10 < 3 THEN NULL "
            "WHEN n % 10 < 6 THEN 'sweep ' || (n * 7919 % 200) ELSE 'run ' || n END",
            "metadata": self._form(
                "json",
                "CASE WHEN n % 5 = 0 THEN '{}' "
                f'WHEN n % 20 = 1 THEN {team}, "note": "n\' || n || \'"}}\' '
                f"ELSE {team}}}' END",
            ),
        }

    def _states(self) -> Columns:
        final, begun = f"n < {self.waiting}", f"n < {self.waiting + RUNNING}"
        runs = f"{begun} AND NOT {final}"
        return {
            "status": f"CASE WHEN NOT {begun} THEN 'queued' WHEN NOT {final} THEN 'running' "
            "WHEN n * 7919 % 20 < 17 THEN 'succeeded' WHEN n * 7919 % 20 < 19 THEN 'failed' "
            "ELSE 'cancelled' END",
            "run_number": f"CASE WHEN {begun} THEN 1 ELSE 0 END",
            "event_seq": f"CASE WHEN {begun} THEN 3 ELSE 1 END",
            "lease_owner": f"CASE WHEN {runs} THEN 'w1' END",
            "lease_expires_at": f"CASE WHEN {runs} THEN {self._time(10**13)} END",
            "result": f"CASE WHEN {final} THEN {self._json(RESULT)} END",
            "started_at": f"CASE WHEN {begun} THEN {self._time(5_000)} END",
            "finished_at": f"CASE WHEN {final} THEN {self._time(600_000)} END",
        }

    def _times(self) -> Columns:
        return dict.fromkeys(("created_at", "queued_at", "updated_at"), self._time(0))

    def _runs(self) -> None:
        columns = {
            "job_id": "id",
            "number": "1",
            "tenant_id": "tenant_id",
            "worker_id": "'w1'",
            "host": "'h1'",
            "boot_id": "'b1'",
            "devices": self._json([]),
            "started_at": "started_at",
            "ended_at": "finished_at",
            "outcome": "CASE WHEN finished_at IS NOT NULL THEN status END",
        }
        self._insert("runs", columns, "jobs WHERE run_number = 1 ORDER BY id")

    def _events(self) -> None:
        data = self._json({"status": "running", "status_reason": None, "run_number": 1})
        columns = {"job_id": "id", "tenant_id": "tenant_id", "type": "'status'"}
        columns |= {"at": "updated_at", "data": data}
        for seq in (1, 2, 3):
            source = f"jobs WHERE event_seq >= {seq} ORDER BY id"
            self._insert("events", columns | {"seq": str(seq)}, source)

    def _artifacts(self) -> None:
        for role, name in (("report", "report.json"), ("weights", "weights.safetensors")):
            columns = {
                "id": f"'art_{role}_' || id",
                "tenant_id": "tenant_id",
                "job_id": "id",
                "run_number": "1",
                "role": f"'{role}'",
                "name": f"'{name}'",
                "storage_key": f"'t/' || tenant_id || '/j/' || id || '/r1/{name}'",
                "size_bytes": "4096",
                "sha256": "substr(id || id, 5, 64)",
                "media_type": "'application/octet-stream'",
                "metadata": self._json({}),
                "status": "'ready'",
                "created_at": "created_at",
            }
            self._insert("artifacts", columns, "jobs WHERE run_number = 1 ORDER BY id")

    def _metrics_of_largest(self) -> None:
        self._insert_metrics(f"id = {self.job_id('0')}", self.largest)

    def _metrics(self) -> None:
        last = self.job_id(str((self.metrics - self.largest) // STEPS_EACH))
        self._insert_metrics(f"id > {self.job_id('0')} AND id <= {last}", STEPS_EACH)

    def _insert_metrics(self, condition: str, steps: int) -> None:
        columns = {
            "job_id": "id",
            "name": "'loss'",
            "step": "n",
            "run_number": "1",
            "tenant_id": "tenant_id",
            "at": "created_at",
            "value": "n * 7919 % 1000 / 1000.0",
        }
        source = f"jobs CROSS JOIN bench_numbers WHERE {condition} AND n < {steps}"
        self._insert("metrics", columns, f"{source} ORDER BY id, n")
