"""What a spec allows: property 14, phases and updates, refusals with a way out."""

import math
from copy import deepcopy

import pytest
from pydantic import ValidationError

from models.core.errors import SpecError
from models.freetickets import train as method
from models.freetickets.timetable import phase_at
from models.stored import load_stored, upgrade


@pytest.mark.parametrize(
    ("total", "explore", "members"), [(450, 150, 3), (850, 150, 7), (20, 7, 3), (9, 1, 4)]
)
def test_the_table_of_edst(make_spec, total, explore, members):
    """Property 14: rates and boundaries for every (T, T0, M), rounded up where L is not whole."""
    spec = make_spec(
        max_steps=None,
        epochs=total,
        explore=explore,
        members=members,
        optimizer={"lr": 0.1, "warmup": 0},
        update_interval=1,
    )
    plan, length = spec.phases(5), (total - explore) / members
    ends = [explore] + [math.ceil(explore + m * length - 1e-9) for m in range(1, members + 1)]
    assert [phase.stop for phase in plan] == [5 * end for end in ends]
    assert [phase.ticket for phase in plan] == [None, *range(members)]
    for step in range(5 * total):
        epoch = step // 5
        m = sum(end <= epoch for end in ends)  # 0 while exploring
        half = m > 0 and epoch >= math.ceil(explore + (m - 0.5) * length - 1e-9)
        expected = 0.1 if m == 0 else 0.001 if half else 0.01
        assert method.rate(spec, plan, step) == pytest.approx(expected)
        assert phase_at(plan, step).ticket == (None if m == 0 else m - 1)


def test_a_cosine_restarts_with_each_ticket(make_spec):
    """From high to low within each refinement, along a half period of the cosine."""
    rates = {"shape": "cosine", "high": 1.0, "low": 0.01}
    spec = make_spec(max_steps=360, explore=120, members=3, rates=rates)
    plan = spec.phases(1)
    actual = [method.rate(spec, plan, step) / spec.optimizer.lr for step in range(120, 360)]
    assert actual[:80] == actual[80:160] == actual[160:]
    assert actual[:80] == sorted(actual[:80], reverse=True)
    assert actual[0] == pytest.approx(1.0)
    assert actual[20] == pytest.approx(0.01 + 0.99 * (1 + math.sqrt(0.5)) / 2)
    assert actual[40] == pytest.approx(0.505)
    assert actual[79] == pytest.approx(0.01, abs=1e-3)


def test_masks_rest_at_the_end_of_phases(make_spec):
    """No update falls on the last step of a ticket, nor in the frozen share."""
    spec = make_spec(max_steps=300, update_interval=10, freeze_last=0.2)
    plan = spec.phases(1)
    actual = spec.updates(plan)
    assert [u.number for u in actual.values()] == list(range(len(actual)))
    for phase in plan:
        inside = [done - phase.start for done in actual if phase.start < done <= phase.stop]
        assert max(inside) == 80
        assert len(inside) == 8
    cosine = make_spec(max_steps=300, update_interval=10, prune_rate={"schedule": "cosine"})
    rates = [u.rate for done, u in cosine.updates(plan).items() if done <= 100]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sparsity": 1.0}, "less than 1"),
        ({"sparsity": 0.9999}, "leaves 8 weights to the .* units of resnet8.*at most 0.9"),
        ({"evaluate": {"ood": [{"dataset": "none"}]}}, "the set that is trained on"),
        ({"evaluate": {"ood": [{"dataset": "a"}, {"dataset": "a"}]}}, "names one set twice"),
        ({"explore": 10, "refine": 8}, "explore 10 [+] 2 members x refine 8 = 26, but the run"),
        ({"update_interval": 8}, "give at most 7"),
        ({"structure": "cap24", "sparsity": 0.1}, "raise sparsity to 0.6"),
        ({"structure": "cap24", "keep_dense": ["stages.*"]}, "raise sparsity to 0.6|fewer layers"),
        ({"structure": "cap24", "variant": "dense_ensemble"}, "layers of variant .* are dense"),
        ({"export": {"timings": [0]}}, "from 1 to 4096"),
        ({"explore": 25}, "do not hold an exploration and 2 phases"),
        ({"refine": 12}, "do not hold an exploration"),
        (
            {
                "model": {"name": "wide_resnet", "depth": 28, "widen": 10},
                "members": 15,
                "max_steps": 900,
                "export": {"onnx": True},
            },
            "lower members, or use export.program",
        ),
        ({"keep_dense": ["sten*"]}, "names no layer"),
        ({"keep_dense": ["*"]}, "keep fewer layers dense"),
        ({"variant": "dense"}, "dense_ensemble, or members 1"),
        ({"variant": "dst", "explore": 3}, "leave them out"),
        ({"max_steps": 4, "members": 3}, "do not hold"),
        ({"prune_rate": {"initial": 0.1, "final": 0.2}}, "final is above initial"),
        ({"evaluate": {"fgsm_eps": [8.0]}}, "0.0314"),
    ],
)
def test_impossible_specs_are_refused_with_a_way_out(make_spec, fields, words):
    with pytest.raises(ValidationError, match=words):
        make_spec(**fields)


def test_an_interval_too_long_for_the_data_is_refused(data, make_spec, new_run):
    spec = make_spec(max_steps=None, epochs=6, update_interval=50)
    with pytest.raises(SpecError, match="give at most"):
        method.prepare(spec, data, new_run())
    with pytest.raises(SpecError, match="give at most"):
        spec.estimate({"none": {"train": 64, "classes": 4, "height": 8, "width": 8}})


def test_specs_of_earlier_releases_get_the_names_of_today(make_spec):
    spec = make_spec(escape={"fraction": 0.6}, prune_rate={"initial": 0.4, "final": 0.01})
    today = spec.model_dump(mode="json")
    stored = deepcopy(today)
    stored["escape"]["q"] = stored["escape"].pop("fraction")
    stored["prune_rate"]["p"] = stored["prune_rate"].pop("initial")
    stored["prune_rate"]["p_min"] = stored["prune_rate"].pop("final")
    assert load_stored(stored) == (spec, [])
    assert upgrade(today) == (today, [])
    sent = {"kind": "freetickets.train", "escape": {"q": 0.6}}
    assert upgrade(sent) == (sent | {"escape": {"fraction": 0.6}}, [])
