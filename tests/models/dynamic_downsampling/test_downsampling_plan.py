"""The plan: what a few timed steps predict of a training."""

import json

import pytest
from pydantic import TypeAdapter

from models.catalog import JobSpec
from models.data import loading
from models.dynamic_downsampling import plan as method
from models.dynamic_downsampling.cheap import LayerTimes
from models.dynamic_downsampling.setup import prepare
from models.dynamic_downsampling.spec import (
    PROBED,
    DynamicDownsamplingPlan,
    DynamicDownsamplingTrain,
)
from models.supervised.clock import StepClock
from models.supervised.evaluate import Scores
from models.supervised.loop import Fitted


@pytest.fixture
def make_plan(make_spec):
    def make(**fields):
        body = make_spec(**fields).model_dump(mode="json")
        return TypeAdapter(JobSpec).validate_python(body | {"kind": "dynamic_downsampling.plan"})

    return make


@pytest.fixture
def planned(data, new_run, monkeypatch):
    """The result and the file of a plan, carried out."""
    monkeypatch.setattr(loading, "load", lambda *_: data)

    def carry_out(spec):
        run = new_run()
        method.plan(spec, run)
        lines = (run.dir / "events.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        (result,) = (event["values"] for event in events if event["type"] == "result")
        assert result == json.loads((run.dir / "plan.json").read_text())["result"]
        return result, json.loads((run.dir / "plan.json").read_text())

    return carry_out


def timed(full_ms, cheap_ms):
    """What a probe came to whose steps took so long."""
    clock = StepClock("cpu")
    for mode, ms in (("full", full_ms), ("cheap", cheap_ms)):
        clock.counts[mode] = PROBED
        if ms is not None:
            clock._add(mode, ms / 1000)
    return Fitted(Scores(0.5, 1.0, 0.0), "test", 0.5, 1, 2 * PROBED, "steps", [], clock)


def test_a_plan_has_the_fields_of_its_training():
    """The body of a training with another kind is the plan of it, and no more."""
    fields = DynamicDownsamplingTrain.model_fields.keys()
    assert DynamicDownsamplingPlan.model_fields.keys() == fields


@pytest.mark.parametrize("k", [1, 2])
def test_times_predict_seconds_and_saving(data, make_spec, new_run, k):
    """10 of 24 batches cheap; a cheap one takes 3 of 8 ms, whatever a step takes at once."""
    down = {"cheap_batch_multiplier": k}
    down["schedule"] = {"type": "list", "intervals": [{"start": 0.0, "end": 10 / 24}]}
    setup = prepare(make_spec(downsample=down, compare_baseline=True), data, new_run())
    actual = method.prediction(setup, timed(8.0, 3.0 * k))
    assert actual["cheap_share"] == pytest.approx(10 / 24)
    assert actual["measured_ratio"] == pytest.approx(3 / 8)
    assert actual["predicted_saving_measured_ratio"] == pytest.approx(10 / 24 * 5 / 8)
    assert actual["plain_seconds"] == pytest.approx(24 * 0.008)
    assert actual["train_seconds"] == pytest.approx(14 * 0.008 + 10 * 0.003)
    assert actual["job_seconds"] == pytest.approx(24 * 0.008 + 2 * (14 * 0.008 + 10 * 0.003))
    assert actual["equal_time_plain_steps"] == round(24 * (14 * 8 + 10 * 3) / (24 * 8))


def test_no_time_of_cheap_steps_gives_no_prediction(data, make_spec, new_run):
    actual = method.prediction(prepare(make_spec(), data, new_run()), timed(8.0, None))
    assert actual["predicted_saving_measured_ratio"] is None
    assert "train_seconds" not in actual


@pytest.mark.parametrize("k", [1, 3])
def test_the_probe_takes_both_kinds_of_steps(make_plan, planned, k):
    result, plan_file = planned(make_plan(downsample={"cheap_batch_multiplier": k}))
    assert result["steps"] == 24
    assert result["measured_ratio"] > 0
    costs = result["cheap_share"] * (1 - result["flop_ratio"])
    assert result["predicted_saving"] == pytest.approx(costs)
    pooled = [layer for layer in plan_file["layers"] if layer["cheap_kernel"] < layer["kernel"]]
    assert pooled
    assert all(min(layer["full_ms"], layer["pooled_ms"]) > 0 for layer in pooled)


def test_the_probe_times_every_size(make_plan, planned):
    """Two sizes take turns with full steps, so each has samples after its first five."""
    parts = [{"start": 0.0, "end": 0.25}, {"start": 0.25, "end": 0.5, "input_scale": 0.75}]
    down = {"schedule": {"type": "list", "intervals": parts}}
    result, plan_file = planned(make_plan(downsample=down))
    assert set(result["median_step_ms"]) == {"full", "cheap 8 x 8", "cheap 12 x 12"}
    assert None not in result["median_step_ms"].values()
    assert result["train_seconds"] == pytest.approx(
        (12 * result["median_step_ms"]["full"] + 6 * result["median_step_ms"]["cheap 8 x 8"]
         + 6 * result["median_step_ms"]["cheap 12 x 12"]) / 1000
    )  # fmt: skip
    assert plan_file["cheap_sizes"] == [[8, 8], [12, 12]]


def test_a_plan_of_a_plain_training_saves_nothing(make_plan, planned):
    result, _ = planned(make_plan(downsample={"schedule": {"type": "off"}}))
    assert result["predicted_saving_measured_ratio"] == 0
    assert result["train_seconds"] == result["plain_seconds"]


def test_auto_leaves_full_what_is_slower_pooled(make_plan, planned, monkeypatch):
    """The operations of the plan are those of the layers that ``auto`` would pool."""
    slow = "stages.0.0.conv1"

    def times(setup):
        names = [layer.name for layer in setup.layers if layer.reason == "pooled"]
        return {name: LayerTimes(1.0, 2.0 if name == slow else 0.5) for name in names}

    every, _ = planned(make_plan())
    monkeypatch.setattr(method, "layer_times", times)
    auto, plan_file = planned(make_plan(downsample={"kernel_layers": "auto"}))
    assert auto["flop_ratio"] > every["flop_ratio"]
    (left,) = [layer for layer in plan_file["layers"] if layer.get("auto") == "full"]
    assert left["name"] == slow
    assert left["cheap_kernel"] == left["kernel"]
