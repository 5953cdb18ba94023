"""The life of a job under random interleavings and real races, on both databases."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.db.session import make_session
from app.db.tables import FINAL, Event, Job, Run, Tenant, new_id
from app.schemas.errors import ReportedError
from app.services import lifecycle
from app.services.lifecycle import Outcome, WorkerInfo
from app.settings import get_settings

TENANT = "tenant_test"
LIMITS = {"timeout_s": 60, "queue_timeout_s": None, "max_runs": 3}


def reported(code: str) -> ReportedError:
    return ReportedError(code=code, message="of a test")


def worker(name: str, **values) -> WorkerInfo:
    return WorkerInfo(id=name, host="here", boot_id="boot", queues=("default",), **values)


def new_job(**values) -> str:
    """A queued job as ``jobs.submit`` leaves it."""
    job_id = new_id("job")
    with make_session() as session:
        if session.get(Tenant, TENANT) is None:
            session.add(Tenant(id=TENANT, name="test"))
            session.flush()
        defaults = {
            "kind": "a.b", "method": "a", "spec": {}, "resolved_spec": {}, "resources": {},
            "limits": LIMITS, "queue": "default", "status": "queued", "event_seq": 1,
        }  # fmt: skip
        session.add(Job(id=job_id, tenant_id=TENANT, **(defaults | values)))
        session.flush()
        session.add(Event(job_id=job_id, seq=1, tenant_id=TENANT, type="status", data={}))
    return job_id


def read(job_id: str) -> Job:
    with make_session(write=False) as session:
        return session.get_one(Job, job_id)


def claim(name: str = "w1", **values) -> Run | None:
    with make_session() as session:
        return lifecycle.claim(session, worker(name, **values), "default")


def finish(run: Run, **outcome) -> Job | None:
    with make_session() as session:
        return lifecycle.finish(session, run, Outcome(**outcome))


def let_lease_die(job_id: str) -> None:
    with make_session() as session:
        past = datetime.now(UTC) - timedelta(seconds=1)
        session.execute(sa.update(Job).where(Job.id == job_id).values(lease_expires_at=past))


def cancel(job_id: str, mode: str = "graceful") -> Job | None:
    with make_session() as session:
        return lifecycle.request_cancel(session, session.get_one(Job, job_id), mode, save=True)


def expire() -> list[str]:
    with make_session() as session:
        return lifecycle.expire(session)


# -- one step at a time --------------------------------------------------------------------------


def test_claims_follow_priority_then_age(settings):
    now = datetime.now(UTC)
    first, second = new_job(), new_job()
    urgent = new_job(line_at=lifecycle.line_at(now, 9))
    assert [claim().job_id for _ in range(3)] == [urgent, first, second]
    assert claim() is None


@pytest.mark.parametrize(
    ("ageing_s", "order"),
    [("3600", ["old", "urgent", "newer", "least"]), ("0", ["urgent", "old", "newer", "least"])],
)
def test_waiting_outweighs_priority_unless_that_is_off(settings, monkeypatch, ageing_s, order):
    monkeypatch.setenv("SEXTANT_QUEUE_AGEING_S", ageing_s)
    get_settings.cache_clear()
    now = datetime.now(UTC)
    places = {
        "old": (now - timedelta(hours=5), 5),
        "urgent": (now, 9),
        "newer": (now - timedelta(hours=3), 5),
        "least": (now - timedelta(hours=6), 0),
    }
    ids = {new_job(line_at=lifecycle.line_at(*place)): name for name, place in places.items()}
    assert [ids[claim().job_id] for _ in ids] == order


def test_jobs_from_before_priorities_stand_where_they_were_submitted(settings):
    """The upgrade gave them the time of their submission as their place."""
    now = datetime.now(UTC)
    later = new_job(line_at=lifecycle.line_at(now, 5))
    upgraded = new_job(line_at=now - timedelta(minutes=1))
    earlier = new_job(line_at=lifecycle.line_at(now - timedelta(minutes=2), 5))
    assert [claim().job_id for _ in range(3)] == [earlier, upgraded, later]


def test_a_job_waits_for_its_time_and_its_device(settings):
    new_job(not_before=datetime.now(UTC) + timedelta(hours=1))
    new_job(device="cuda", gpus=2)
    assert claim() is None
    assert claim(gpus_total=2, gpus_free=1) is None
    assert claim(gpus_total=2, gpus_free=2) is not None


def test_jobs_whose_time_has_come_are_put_in_line(settings):
    """More of them than one claim releases: none is left behind, whoever claims."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    ids = [new_job(not_before=past) for _ in range(lifecycle.RELEASED_AT_ONCE + 3)]
    later = new_job(not_before=datetime.now(UTC) + timedelta(hours=1))
    ready = new_job()
    claimed = [claim().job_id for _ in range(len(ids) + 1)]
    assert claimed == [*ids, ready]
    assert claim() is None
    assert read(later).not_before is not None


def test_success_keeps_the_result(settings):
    job_id = new_job()
    run = claim()
    assert read(job_id).status_reason == "starting"
    finish(run, exit_code=0, result={"accuracy": 0.5})
    job = read(job_id)
    assert (job.status, job.result, job.lease_owner) == ("succeeded", {"accuracy": 0.5}, None)
    assert job.finished_at >= job.started_at


@pytest.mark.parametrize(
    ("outcome", "status", "failures"),
    [
        ({"signal": 9}, "queued", 1),
        ({"error": reported("worker_lost")}, "queued", 1),
        ({"error": reported("host_out_of_memory")}, "queued", 1),
        ({"exit_code": 64, "error": reported("spec_invalid")}, "failed", 1),
        ({"exit_code": 0, "error": reported("storage_full")}, "failed", 1),
        ({"exit_code": 75, "stop_reason": "shutdown"}, "queued", 0),
        ({"exit_code": 124, "error": reported("timeout")}, "failed", 1),
    ],
)
def test_what_an_end_means(settings, outcome, status, failures):
    job_id = new_job()
    finish(claim(), **outcome)
    job = read(job_id)
    assert (job.status, job.failures) == (status, failures)
    assert (job.status_reason == "backoff") == (status == "queued" and failures == 1)


def test_a_poison_job_ends_after_max_runs(settings):
    job_id = new_job()
    for _ in range(3):
        with make_session() as session:
            session.execute(sa.update(Job).values(not_before=None))
        finish(claim(), signal=11)
    job = read(job_id)
    assert (job.status, job.run_number, job.failures) == ("failed", 3, 3)
    assert job.error["code"] == "worker_lost"
    assert "signal 11" in job.error["message"]


def test_backoff_doubles(settings):
    job_id = new_job(failures=3, limits=LIMITS | {"max_runs": 10})
    before = datetime.now(UTC)
    finish(claim(), signal=9)
    wait_s = (read(job_id).not_before - before).total_seconds()
    assert 80 * 0.8 - 1 <= wait_s <= 80 * 1.2 + 2


def test_a_late_writer_changes_nothing(settings):
    job_id = new_job()
    old = claim("old")
    let_lease_die(job_id)
    assert expire() == [job_id]
    with make_session() as session:
        session.execute(sa.update(Job).values(not_before=None))
    new = claim("new")
    assert new.number == 2
    assert finish(old, exit_code=0, result={"stale": True}) is None
    with make_session() as session:
        assert lifecycle.renew(session, old).lost
        assert not lifecycle.add_event(session, job_id, "warning", {}, old)
        assert not lifecycle.renew(session, new).lost
    finish(new, exit_code=0, result={"stale": False})
    assert read(job_id).result == {"stale": False}


def test_the_number_of_a_run_without_its_lease_changes_nothing(settings):
    """As after a restore of a backup, whose job gets the same run number from another worker."""
    job_id = new_job()
    run = claim("owner")
    other = Run(job_id=job_id, number=run.number, worker_id="other")
    with make_session() as session:
        assert lifecycle.renew(session, other).lost
        assert not lifecycle.add_event(session, job_id, "warning", {}, other)
        lifecycle.mark_running(session, other)
    assert read(job_id).status_reason == "starting"
    assert finish(other, exit_code=0, result={"stale": True}) is None
    assert read(job_id).status == "running"


def test_a_dead_lease_is_not_revived(settings):
    job_id = new_job()
    run = claim()
    let_lease_die(job_id)
    with make_session() as session:
        assert lifecycle.renew(session, run).lost


def test_cancel_at_every_stage(settings):
    queued = new_job()
    assert cancel(queued).status == "cancelled"
    running = new_job()
    run = claim()
    assert cancel(running).status_reason == "cancelling"
    with make_session() as session:
        assert lifecycle.renew(session, run).cancel_mode == "graceful"
    assert cancel(running, "kill").cancel_mode == "kill"
    finish(run, exit_code=75, stop_reason="cancel")
    assert read(running).status == "cancelled"
    assert cancel(running) is None


def test_a_complete_success_wins_over_cancel(settings):
    job_id = new_job()
    run = claim()
    cancel(job_id)
    finish(run, exit_code=0, result={})
    assert read(job_id).status == "succeeded"


def test_cancel_and_a_lost_worker_end_cancelled(settings):
    job_id = new_job()
    claim()
    cancel(job_id)
    let_lease_die(job_id)
    expire()
    assert read(job_id).status == "cancelled"


def test_queue_timeout(settings):
    job_id = new_job(queue_timeout_at=datetime.now(UTC) - timedelta(seconds=1))
    with make_session() as session:
        assert lifecycle.time_out_queued(session) == [job_id]
    assert read(job_id).error["code"] == "queue_timeout"


def test_transitions_outside_the_table_are_refused(settings):
    job_id = new_job()
    with make_session() as session, pytest.raises(lifecycle.ForbiddenTransitionError):
        lifecycle.transition(session, job_id, "succeeded", "queued")


# -- races ---------------------------------------------------------------------------------------


def test_of_many_workers_exactly_one_gets_each_job(settings):
    jobs = {new_job() for _ in range(40)}
    claimed: list[tuple[str, str]] = []
    barrier = threading.Barrier(8)

    def work(name: str) -> None:
        barrier.wait()
        while (run := claim(name)) is not None:
            claimed.append((run.job_id, name))

    threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while (run := claim("last")) is not None:  # what a worker saw only as taken candidates
        claimed.append((run.job_id, "last"))
    assert sorted(job for job, _ in claimed) == sorted(jobs)


class Lives(RuleBasedStateMachine):
    """Three jobs, two workers, a reaper and a user, in any order.

    Invariants: a final status stays, events are gap-free, one open run a job at most, and the
    number of runs never exceeds the limit by failures.
    """

    def __init__(self) -> None:
        super().__init__()
        self.jobs = [new_job(limits=LIMITS | {"max_runs": 2}) for _ in range(3)]
        self.runs: list[Run] = []
        self.final: dict[str, str] = {}

    @rule(name=st.sampled_from(["w1", "w2"]))
    def claim(self, name):
        run = claim(name)
        self.runs += [run] if run else []

    @precondition(lambda self: self.runs)
    @rule(
        pick=st.integers(0, 99),
        outcome=st.sampled_from(
            [
                {"exit_code": 0},
                {"signal": 9},
                {"exit_code": 75, "stop_reason": "shutdown"},
                {"exit_code": 65, "error": reported("data_invalid")},
            ]
        ),
    )
    def finish(self, pick, outcome):
        finish(self.runs[pick % len(self.runs)], **outcome)

    @precondition(lambda self: self.runs)
    @rule(pick=st.integers(0, 99))
    def renew(self, pick):
        with make_session() as session:
            lifecycle.renew(session, self.runs[pick % len(self.runs)])

    @rule(pick=st.integers(0, 2), mode=st.sampled_from(["graceful", "kill"]))
    def cancel(self, pick, mode):
        cancel(self.jobs[pick], mode)

    @rule(pick=st.integers(0, 2))
    def worker_dies(self, pick):
        let_lease_die(self.jobs[pick])
        expire()

    @rule()
    def time_passes(self):
        with make_session() as session:
            session.execute(sa.update(Job).values(not_before=None))

    @invariant()
    def holds(self):
        with make_session(write=False) as session:
            for job in session.scalars(sa.select(Job).where(Job.id.in_(self.jobs))):
                if job.id in self.final:
                    assert job.status == self.final[job.id]
                if job.status in FINAL:
                    self.final[job.id] = job.status
                seqs = list(
                    session.scalars(
                        sa.select(Event.seq).where(Event.job_id == job.id).order_by(Event.seq)
                    )
                )
                assert seqs == list(range(1, job.event_seq + 1))
                open_runs = session.scalar(
                    sa.select(sa.func.count())
                    .select_from(Run)
                    .where(Run.job_id == job.id, Run.ended_at.is_(None))
                )
                assert open_runs == (job.status == "running")
                assert job.failures <= 2


def test_any_interleaving_keeps_the_invariants(settings):
    run_state_machine_as_test(
        Lives,
        settings=hypothesis_settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
