"""The end of a step: one decision for all ranks."""

import pytest

from models.core import ranks
from models.core.run import Run, StoppedError
from models.core.stopping import StepEnd


@pytest.fixture
def run(tmp_path):
    with (tmp_path / "events.jsonl").open("w") as events:
        yield Run(tmp_path, events, checkpoint_interval_s=1e9)


@pytest.mark.parametrize("save", [True, False])
def test_a_requested_stop_is_obeyed(run, save):
    run.request_stop("test", save=save)
    end = StepEnd.decide(run)
    assert end.saves is save
    with pytest.raises(StoppedError, match="test"):
        end.stop_if_requested(run)


def test_the_interval_saves_and_does_not_stop(tmp_path):
    with (tmp_path / "events.jsonl").open("w") as events:
        run = Run(tmp_path, events, checkpoint_interval_s=0.0)
        end = StepEnd.decide(run, over_time=True)
        end.stop_if_requested(run)
    assert (end.saves, end.stops, end.over_time) == (True, False, True)


def test_every_rank_does_what_the_first_one_decided(run, monkeypatch):
    """Stops where only the first rank was asked; goes on where only this one was."""
    monkeypatch.setattr(ranks, "broadcast_flags", lambda *_: (True, True, False, False))
    end = StepEnd.decide(run)
    assert end.saves
    with pytest.raises(StoppedError, match="first rank"):
        end.stop_if_requested(run)
    monkeypatch.setattr(ranks, "broadcast_flags", lambda *_: (False, False, False, False))
    assert run.stopping
    end = StepEnd.decide(run)
    end.stop_if_requested(run)
    assert not end.saves
