"""Small specs of this method."""

from dataclasses import replace

import pytest

from models.core.run import StoppedError
from models.freetickets import train as method
from models.freetickets.spec import FreeTicketsTrain


@pytest.fixture
def make_spec():
    """A spec on the small data: 24 steps, two tickets, an update every other step."""

    def make(**fields):
        base = {
            "kind": "freetickets.train",
            "model": {"name": "resnet8", "width": 16},
            "data": {"dataset": "none"},
            "images": {"augment": {"crop_padding": 1}},
            "max_steps": 24,
            "members": 2,
            "batch_size": 8,
            "update_interval": 2,
            "optimizer": {"lr": 0.05, "nesterov": False},
        }
        return FreeTicketsTrain.model_validate(base | fields)

    return make


@pytest.fixture
def trained():
    """Trains without files: the training and what it came to."""

    def train(spec, data, run):
        training = method.prepare(spec, data, run)
        return training, method.fit_tickets(training)

    return train


@pytest.fixture
def stopped(monkeypatch, new_run, trained):
    """Trains until a stop is asked for: the run, with its checkpoint after ``step`` steps."""

    def stop(spec, data, step):
        run, rate = new_run(), method.rate

        def stopping(spec, plan, at):
            if at == step - 1:
                run.request_stop("test")
            return rate(spec, plan, at)

        with monkeypatch.context() as patch:
            patch.setattr(method, "rate", stopping)
            with pytest.raises(StoppedError):
                trained(spec, data, run)
        return run

    return stop


@pytest.fixture
def watched(monkeypatch):
    """Calls ``look(training, optimizer, done)`` before each step, when all of the last is over."""

    def watch(spec, data, run, look):
        training, actual = method.prepare(spec, data, run), {}
        attach = training.topology.attach
        training.topology.attach = lambda optimizer: (
            attach(optimizer),
            actual.update(optimizer=optimizer),
        )
        real = method.fit

        def fit(*args):
            *others, hooks = args

            def begin(x, step):
                changed = hooks.prepare(x, step)
                look(training, actual["optimizer"], step)
                return changed

            return real(*others, replace(hooks, prepare=begin))

        monkeypatch.setattr(method, "fit", fit)
        fitted = method.fit_tickets(training)
        monkeypatch.setattr(method, "fit", real)
        return training, fitted

    return watch
