"""Pages of sweeps and webhooks."""

import pytest

from app.db.session import make_session
from app.http import webhook_sender
from app.services import sweeps, webhooks
from app.services.keys import DEFAULT_TENANT
from tests.app.factories import claim, finish
from tests.app.test_sweeps import request as sweep_request
from tests.app.test_sweeps import run_next
from tests.web.conftest import LOOKS, photograph, violations
from workers.dispatcher import advance_sweeps


@pytest.fixture
def sweep(site) -> str:
    """A sweep over two rates and two seeds that has ended."""
    with make_session() as session:
        request = sweeps.SweepCreate.model_validate(sweep_request(max_parallel=6))
        made = sweeps.create(session, DEFAULT_TENANT, request).id
    advance_sweeps()
    for value in (0.5, 0.7, 0.6, 0.9, 0.4):
        run_next(value)
    return made


@pytest.fixture
def webhook(site, monkeypatch) -> str:
    """A webhook that was told of one job and answers nothing."""
    monkeypatch.setattr(webhook_sender, "EVERY_S", 3600)
    with make_session() as session:
        address = "https://receiver.invalid/hook"
        return webhooks.create(session, DEFAULT_TENANT, address, progress=False)[0].id


@pytest.mark.parametrize("look", LOOKS[:3], ids=str)
def test_looks(user, sweep, webhook, look):
    look.apply(user)
    for page in ("sweeps", f"sweeps/{sweep}", "webhooks"):
        user.goto(f"/{page}")
        photograph(user, page.partition("/swp")[0], look)
        assert violations(user) == []


def test_a_sweep_with_its_trials_and_report(visitor, sweep):
    assert f'href="/sweeps/{sweep}"' in visitor.get("/sweeps").text
    text = visitor.get(f"/sweeps/{sweep}").text
    for part in ("optimizer.lr = 0.05", "baseline", "0.75", "5 succeeded, 0 run, 1 wait"):
        assert part in text
    report = visitor.get(f"/sweeps/{sweep}/report")
    assert report.headers["content-security-policy"].startswith("sandbox")
    assert "<svg" in report.text
    assert visitor.get(f"/sweeps/swp_{'0' * 32}").status_code == 404


def test_webhooks_and_their_messages(visitor, sweep, webhook):
    finish(claim())
    text = visitor.get("/webhooks").text
    for part in ("https://receiver.invalid/hook", "works", "job.started", "is tried again"):
        assert part in text
    assert "whsec_" not in text


def test_nothing_there_yet(visitor):
    assert "No sweep yet" in visitor.get("/sweeps").text
    assert "No webhook" in visitor.get("/webhooks").text
