"""Chores: one worker at a time, each due once a period, at a bounded share of the time."""

import itertools
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from app.db.session import make_session
from app.db.tables import Chore, Worker, utc_now
from app.services import chores, workers
from tests.app.factories import carry_out
from workers.cleaner import CHORES, REST, ChoreDefinition, Cleaner, tidy
from workers.host import this_host


@pytest.fixture
def cleaner(settings):
    """A cleaner of steps that take a while, and how many were carried out."""
    this_host.cache_clear()
    done: list[float] = []

    def steps() -> Iterator[None]:
        for _ in range(3):
            time.sleep(0.02)
            done.append(time.monotonic())
            yield

    yield Cleaner(ChoreDefinition("test", 60.0, steps)), done
    this_host.cache_clear()


def taken(owner: str) -> bool:
    with make_session() as session:
        return chores.take(session, "test", 60.0, owner)


def chore() -> Chore:
    with make_session(write=False) as session:
        return session.get_one(Chore, "test")


def test_it_is_done_once_a_period(cleaner):
    one, done = cleaner
    assert one.pass_once() is True
    assert one.pass_once() is False
    assert len(done) == 3
    assert chore().lease_owner is None
    with make_session() as session:
        session.execute(update(Chore).values(done_at=utc_now() - timedelta(seconds=61)))
    assert one.pass_once() is True
    assert len(done) == 6


def test_it_rests_after_each_step(cleaner):
    one, done = cleaner
    one.pass_once()
    assert all(after - before >= 0.02 * REST for before, after in itertools.pairwise(done))


def test_of_several_workers_one_has_it(settings):
    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(taken(f"w{n}"))) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False, False, False, True]


def test_another_goes_on_once_the_lease_of_a_dead_one_is_over(cleaner):
    one, done = cleaner
    assert taken("dead")
    assert one.pass_once() is False
    with make_session() as session:
        session.execute(update(Chore).values(lease_expires_at=utc_now() - timedelta(seconds=1)))
    assert one.pass_once() is True
    assert len(done) == 3


def test_whoever_lost_it_stops(cleaner, monkeypatch):
    one, done = cleaner
    monkeypatch.setattr(chores, "renew", lambda *_: False)
    monkeypatch.setenv("SEXTANT_LEASE_RENEW_S", "0.001")
    from app.settings import get_settings

    get_settings.cache_clear()
    assert one.pass_once() is False
    assert len(done) == 1
    assert chore().done_at is None


def test_a_worker_that_drains_leaves_it_to_others(cleaner):
    one, done = cleaner
    this_host().draining.set()
    assert one.pass_once() is False
    assert len(done) == 1
    assert (chore().done_at, chore().lease_owner) == (None, None)


@pytest.mark.parametrize("each", CHORES, ids=lambda each: each.name)
def test_every_chore_runs_on_an_empty_state(settings, each):
    this_host.cache_clear()
    assert Cleaner(each).pass_once() is True
    this_host.cache_clear()


def test_workers_are_forgotten_a_day_after_their_last_heartbeat(settings):
    values = {"host": "h", "boot_id": "b", "pid": 1, "queues": [], "slots": 1, "slots_free": 1}
    with make_session() as session:
        for hours in (0, 23, 25):
            workers.beat(session, f"w{hours}", **values)
            session.get_one(Worker, f"w{hours}").heartbeat_at -= timedelta(hours=hours)
    carry_out(tidy())
    with make_session(write=False) as session:
        assert set(session.scalars(select(Worker.id))) == {"w0", "w23"}


def test_one_that_fails_is_tried_again_a_period_later(settings):
    def steps() -> Iterator[None]:
        raise OSError("the store is away")
        yield

    this_host.cache_clear()
    one = Cleaner(ChoreDefinition("test", 60.0, steps))
    with pytest.raises(OSError, match="away"):
        one.pass_once()
    assert one.pass_once() is False
    assert chore().lease_owner is None
    this_host.cache_clear()
