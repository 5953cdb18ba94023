"""Cheap steps on images that are decoded as they are needed: small ones, for little work."""

import json

import pytest
import torch

from models.data.loader import Loader
from models.dynamic_downsampling import train as method
from models.dynamic_downsampling.setup import prepare
from models.supervised import source
from models.supervised.feed import Plan
from models.supervised.hooks import Hooks, SubRun
from tests.models.data.pictures import learnable, packed, placed
from tests.models.nets.libraries import library

TAR = packed("tar", learnable(40, size=32))
FLAGSHIP = {"library": "timm", "name": "test_resnet"}


@pytest.fixture
def spec_for(make_spec):
    def make(run, **fields):
        return make_spec(data=placed(run, TAR), loading="stream", **fields)

    return make


def test_cheap_steps_ask_for_small_images(spec_for, new_run):
    run = new_run()
    spec = spec_for(run, max_steps=8)
    setup = prepare(spec, source.load(spec, run), run)
    plan = Plan(setup.data, spec, Hooks(size_of=setup.decoded_size))
    sizes = [requests[0].size for requests in plan.requests(setup.data.train, 0)]
    assert sizes == [(16, 16) if decided else None for decided in setup.decisions]
    assert any(sizes)
    assert not all(sizes)


@pytest.mark.parametrize("how", ["bilinear_aa", "crop"])
def test_other_ways_to_shrink_see_full_images(how, spec_for, new_run):
    run = new_run()
    spec = spec_for(run, max_steps=8, downsample={"input_resample": how})
    setup = prepare(spec, source.load(spec, run), run)
    assert {setup.decoded_size(step) for step in range(8)} == {None}


def test_without_cheap_steps_nothing_differs_from_memory(spec_for, new_run):
    weights = []
    for loading in ("memory", "stream"):
        run = new_run()
        spec = spec_for(run, max_steps=6, downsample={"schedule": {"type": "off"}})
        spec = spec.model_copy(update={"loading": loading})
        setup = prepare(spec, source.load(spec, run), run)
        method.fit_cheap(setup, run, SubRun())
        weights.append(setup.net.state_dict())
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def test_probes_of_gradients_decode_their_images_once(spec_for, new_run, monkeypatch):
    run, decoded = new_run(), []
    real = Loader.image
    monkeypatch.setattr(Loader, "image", lambda self, x: decoded.append(x) or real(self, x))
    spec = spec_for(run, max_steps=8, batch_size=8, downsample={"gradient_probes": 4})
    method.fit_cheap(prepare(spec, source.load(spec, run), run), run, SubRun())
    assert len([x for x in decoded if x.part == "train"]) <= 8 + 1  # and one of its statistics


def test_a_timm_net_goes_on_from_a_stop_with_the_same_bits(spec_for, new_run):
    library("timm")
    weights, first = [], None
    for resumed in (False, True):
        run = new_run(first, 3) if resumed else new_run()
        spec = spec_for(run, model=FLAGSHIP, max_steps=8)
        setup = prepare(spec, source.load(spec, run), run)
        fitted = method.fit_cheap(setup, run, SubRun())
        assert {"full", "cheap"} <= fitted.clock.counts.keys()
        weights.append(setup.net.state_dict())
        first = run
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


@pytest.mark.slow
def test_a_timm_net_is_trained_whole(spec_for, new_run):
    library("timm")
    run = new_run()
    method.train(spec_for(run, model=FLAGSHIP, max_steps=8), run)
    lines = [json.loads(line) for line in (run.dir / "events.jsonl").read_text().splitlines()]
    (result,) = (line["values"] for line in lines if line["type"] == "result")
    assert result["steps"]["cheap"] > 0 < result["steps"]["full"]
    assert (run.dir / "weights.safetensors").exists()
