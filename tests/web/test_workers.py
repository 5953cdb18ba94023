"""Workers and queues in a browser."""

import pytest

from app.db.session import make_session
from app.services import workers
from tests.app.factories import add_job
from tests.web.conftest import LOOKS, photograph, violations


@pytest.fixture
def two_workers(site) -> None:
    with make_session() as session:
        for number, gpus in enumerate([[], ["GPU-1", "GPU-2"]]):
            workers.beat(
                session,
                f"w{number}",
                host=f"host{number}",
                boot_id="b",
                pid=100 + number,
                queues=["gpu"] if gpus else ["default"],
                gpus=gpus,
                slots=2,
                slots_free=1,
                versions={"sextant": "0.1.0", "torch": "2.13.0"},
            )
    add_job()
    add_job(queue="night")


@pytest.mark.parametrize("look", LOOKS[:3], ids=str)
def test_looks(user, two_workers, look):
    look.apply(user)
    user.goto("/workers")
    photograph(user, "workers", look)
    assert violations(user) == []


def test_it_tells_who_is_there_and_what_waits(visitor, two_workers):
    text = visitor.get("/workers").text
    for part in ("host0", "host1", "1 of 2 in use", "torch 2.13.0", "by nobody"):
        assert part in text
    night = text[text.index(">night<") :]
    assert night.index(">1<") < night.index("by nobody")


def test_without_a_worker_it_says_what_to_do(visitor):
    assert "No live worker" in visitor.get("/workers").text
