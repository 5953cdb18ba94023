"""Schedules: shares, windows, randomness of their own (properties 13 and 17)."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from models.dynamic_downsampling.fields import Downsample, Schedule
from models.dynamic_downsampling.schedule import (
    decide,
    digest,
    expected_shares,
    mean_ratio,
    uniform,
)


def make(warmup=0.0, refine=0.0, **plan):
    schedule = Schedule.model_validate(plan)
    return Downsample(schedule=schedule, warmup_full_fraction=warmup, refine_fraction=refine)


@settings(deadline=None, max_examples=50)
@given(
    total=st.integers(1, 400),
    period=st.integers(1, 9),
    n_cheap=st.integers(0, 9),
    warmup=st.floats(0, 0.5),
    refine=st.floats(0, 0.5),
    first=st.booleans(),
)
def test_periodic_share_and_window(total, period, n_cheap, warmup, refine, first):
    """Property 13: share exact to a step in every prefix; the last ceil(refine T) steps full."""
    n_cheap = min(n_cheap, period)
    down = make(warmup, refine, type="periodic", period=period, n_cheap=n_cheap, cheap_first=first)
    decided = decide(down, total, per_epoch=10, seed=0)
    start, tail = math.floor(warmup * total), math.ceil(refine * total)
    assert len(decided) == total
    assert not any(decided[:start])
    assert not any(decided[total - tail :])
    window = decided[start : total - tail]
    whole = len(window) // period
    assert sum(window[: whole * period]) == whole * n_cheap


def expected_only(down, total, per_epoch):
    (share,) = expected_shares(down, total, per_epoch)
    return share


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_bernoulli_share(p):
    """Property 13: within four standard deviations of p T."""
    total = 20_000
    cheap = sum(decide(make(type="bernoulli", cheap_share=p), total, 1, seed=5))
    assert abs(cheap - p * total) <= 4 * math.sqrt(p * (1 - p) * total)


def test_bernoulli_depends_on_seed_and_step_alone():
    """Property 13: a longer run or a resumed one decides each common step alike."""
    down = make(type="bernoulli", cheap_share=0.5)
    long = decide(down, 500, 1, seed=1)
    assert long[:200] == decide(down, 200, 1, seed=1)
    assert long != decide(down, 500, 1, seed=2)
    assert digest(long) != digest(decide(down, 500, 1, seed=2))
    draws = [uniform(3, step) for step in range(10_000)]
    assert min(draws) >= 0
    assert max(draws) < 1
    assert sum(draws) / len(draws) == pytest.approx(0.5, abs=0.015)


@settings(deadline=None, max_examples=50)
@given(total=st.integers(1, 500), p0=st.floats(0, 1), p1=st.floats(0, 1))
def test_diffusion_is_exact_to_a_step(total, p0, p1):
    """Anneal by error diffusion: every prefix has the sum of its chances, to one step."""
    decided = decide(make(type="anneal", p0=p0, p1=p1), total, 1, seed=0)
    chances = [p1 + (p0 - p1) * (1 - (t + 0.5) / total) for t in range(total)]
    owed = 0.0
    for cheap, chance in zip(decided, chances, strict=True):
        owed += chance - cheap
        assert abs(owed) <= 1


def test_anneal_falls():
    for shape in ("linear", "cosine"):
        for draw in ("diffusion", "bernoulli"):
            decided = decide(make(type="anneal", shape=shape, draw=draw), 3000, 1, seed=0)
            thirds = [sum(decided[k * 1000 : (k + 1) * 1000]) for k in range(3)]
            assert thirds[0] > thirds[1] > thirds[2] > 0


def test_block_takes_whole_epochs():
    down = make(type="block", n_cheap_epochs=2, n_full_epochs=1)
    assert decide(down, 12, per_epoch=2, seed=0) == bytes([1, 1, 1, 1, 0, 0] * 2)


def test_list_takes_intervals():
    down = make(type="list", intervals=[{"start": 0.1, "end": 0.3}, {"start": 0.5, "end": 0.6}])
    assert decide(down, 10, 1, seed=0) == bytes([0, 1, 1, 0, 0, 1, 0, 0, 0, 0])


RAMP = [
    {"start": 0.0, "end": 0.4},
    {"start": 0.4, "end": 0.6, "input_scale": 0.75},
    {"start": 0.8, "end": 0.9, "input_scale": 0.5},
]


def test_intervals_may_have_their_own_scale():
    """The decision names the scale; equal scales are one; units take the scale of their batches."""
    down = make(type="list", intervals=RAMP)
    assert down.scales == [0.5, 0.75]
    assert decide(down, 10, 10, seed=0) == bytes([1, 1, 1, 1, 2, 2, 0, 0, 1, 0])
    pairs = down.model_copy(update={"cheap_batch_multiplier": 2})
    assert decide(pairs, 10, 10, seed=0) == bytes([1, 1, 1, 1, 2, 2, 0, 0, 1, 1])
    assert expected_shares(down, 1000, 100) == pytest.approx([0.5, 0.2])
    assert make(type="periodic").scales == [0.5]


def test_mean_ratio_weighs_by_batches():
    assert mean_ratio([0.2, 0.6], [0.3, 0.1]) == pytest.approx(0.3)
    assert mean_ratio([0.2, math.nan], [5.0, 0.0]) == 0.2
    assert math.isnan(mean_ratio([0.2, math.nan], [5.0, 1.0]))
    assert mean_ratio([0.2, 0.6], [0.0, 0.0]) == 0.2


def test_warmup_and_refinement_may_fill_the_run():
    """Property 17: a sum of 1 is valid and gives full steps only; above 1 it is refused."""
    for plan in ({"type": "periodic"}, {"type": "anneal"}, {"type": "bernoulli"}):
        assert not any(decide(make(0.4, 0.6, **plan), 77, 5, seed=0))
    assert sum(decide(make(0.5, 0.5, type="anneal"), 1, 1, seed=0)) == 0
    with pytest.raises(ValidationError, match="must be at most 1"):
        make(0.5, 0.51, type="periodic")


@settings(deadline=None, max_examples=100)
@given(
    epochs=st.integers(1, 6),
    per_epoch=st.integers(4, 30),
    size=st.integers(2, 4),
    warmup=st.floats(0, 0.3),
    refine=st.floats(0, 0.3),
    n_cheap=st.integers(0, 5),
)
def test_units_of_several_batches(epochs, per_epoch, size, warmup, refine, n_cheap):
    """Cheap batches come in units that lie in one epoch and in the window; the share stays."""
    total = epochs * per_epoch
    plan = {"type": "periodic", "period": 5, "n_cheap": n_cheap}
    down = make(warmup, refine, **plan).model_copy(update={"cheap_batch_multiplier": size})
    decided = decide(down, total, per_epoch, seed=0)
    start, tail = math.floor(warmup * total), math.ceil(refine * total)
    assert len(decided) == total
    assert not any(decided[:start])
    assert not any(decided[total - tail :])
    single, held, cheap = decide(make(warmup, refine, **plan), total, per_epoch, seed=0), 0, 0
    for epoch in range(0, total, per_epoch):
        assert not any(decided[epoch + per_epoch // size * size : epoch + per_epoch])
        for unit in range(epoch, epoch + per_epoch - size + 1, size):
            assert len(set(decided[unit : unit + size])) == 1
            if start <= unit and unit + size <= total - tail:
                held += sum(single[unit : unit + size])
                cheap += sum(decided[unit : unit + size])
                assert abs(held - cheap) <= size / 2


def test_expected_share_scales_down_long_runs():
    down = make(refine=0.2, type="periodic", period=4, n_cheap=3)
    assert expected_only(down, 5_000_000, 500) == pytest.approx(0.6, abs=1e-4)
    fourfold = down.model_copy(update={"cheap_batch_multiplier": 4})
    assert expected_only(fourfold, 5_000_000, 50) == pytest.approx(0.6 * 48 / 50, abs=1e-4)
    exact = sum(decide(fourfold, 5000, 50, seed=0)) / 5000
    assert expected_only(fourfold, 5000, 50) == pytest.approx(exact, abs=4 / 5000)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"type": "bernoulli", "period": 5}, "mean nothing with type bernoulli"),
        ({"type": "periodic", "period": 2, "n_cheap": 3}, "at most period 2"),
        ({"type": "block", "n_cheap_epochs": 0, "n_full_epochs": 0}, "cannot both be 0"),
        ({"type": "list", "intervals": [{"start": 0.5, "end": 0.5}]}, "must be above start"),
        ({"type": "list"}, "intervals is empty: give one at least"),
        (
            {"type": "list", "intervals": [{"start": 0.4, "end": 1}, {"start": 0, "end": 0.5}]},
            r"\[0.0, 0.5\) and \[0.4, 1.0\) overlap",
        ),
    ],
)
def test_senseless_schedules_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        Schedule.model_validate(fields)


def test_resolved_schedule_validates_again():
    """The service stores a spec with its defaults filled and validates that."""
    resolved = Schedule(type="bernoulli").model_dump()
    assert Schedule.model_validate(resolved) == Schedule(type="bernoulli")
