"""A training from images decoded as they are needed: the same weights, however it is cut up."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from pydantic import ValidationError

from models.core.errors import SpecError
from models.core.run import StoppedError
from models.data import loading
from models.nets.build import build_net
from models.nets.spec import ResidualNet
from models.supervised import source
from models.supervised.feed import ImageFeed, Plan
from models.supervised.hooks import Hooks
from models.supervised.loop import fit
from models.supervised.spec import SupervisedSpec
from models.supervised.steps import FULL, Mode
from tests.models.data.pictures import encoded, learnable, packed, placed

FILES = learnable(60)
TAR = packed("tar", FILES)
PARTS = {"crop_padding": 2, "flip": True, "resized_crop": 0.3, "erase": 0.5}
EVERY = PARTS | {"mixup": 0.2, "cutmix": 1.0}


class Training(SupervisedSpec):
    """Of residual nets."""

    model: ResidualNet


def spec_of(ref, **fields):
    base = {
        "model": {"name": "resnet8"},
        "data": ref,
        "images": {"augment": {"crop_padding": 2, "flip": True}},
        "epochs": 2,
        "batch_size": 8,
        "seed": 5,
    }
    return Training.model_validate(base | fields)


def load(spec, run, processes):
    return loading.load(
        spec.data, spec.images, run, spec.seed, spec.held, spec.loading, processes=processes
    )


def train(run, processes=0, hooks=None, **fields):
    """The weights of a training, by name."""
    spec = spec_of(placed(run, TAR), **fields)
    data = load(spec, run, processes)
    torch.manual_seed(0)
    net = build_net({"name": "resnet8"}, 3, 3)
    fit(net, data, spec, run, hooks or Hooks())
    return net.state_dict()


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def stopped_at(step, run, **fields):
    """A run that was stopped after a step, in the middle of an epoch, and left a checkpoint."""

    def stop(done, _mode):
        if done == step:
            run.request_stop("test")

    with pytest.raises(StoppedError):
        train(run, hooks=Hooks(after_step=stop), **fields)
    return run


def test_weights_are_those_of_a_training_in_memory(new_run):
    assert_equal(train(new_run(), loading="memory"), train(new_run(), loading="stream"))


def test_every_random_change_is_the_same_in_memory_and_streamed_and_after_a_stop(new_run):
    changes = {"images": {"augment": EVERY}}
    memory, stream = (train(new_run(), loading=way, **changes) for way in ("memory", "stream"))
    assert_equal(memory, stream)
    first = stopped_at(7, new_run(), loading="stream", **changes)
    assert_equal(stream, train(new_run(first, 7), loading="stream", **changes))
    without = train(new_run(), loading="stream")
    assert not torch.equal(without["stem.weight"], stream["stem.weight"])


def test_steps_of_several_batches_take_the_same_images(new_run):
    double = Mode("double", batches=2)
    hooks = Hooks(mode_of=lambda step: double if step % 5 in (0, 1) and step % 4 == 0 else FULL)
    ways = [train(new_run(), hooks=hooks, loading=way) for way in ("memory", "stream")]
    assert_equal(*ways)


def test_resumes_exactly_with_another_number_of_processes(new_run):
    """In the middle of an epoch, from none to one."""
    whole = train(new_run(), loading="stream")
    first = stopped_at(3, new_run(), loading="stream")
    assert_equal(whole, train(new_run(first, 3), processes=1, loading="stream"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
def test_resumes_exactly_with_three_processes(new_run):
    whole = train(new_run(), processes=3, loading="stream")
    first = stopped_at(7, new_run(), processes=3, loading="stream")
    assert_equal(whole, train(new_run(first, 7), processes=0, loading="stream"))


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"seed": 6}, "/seed"),
        ({"batch_size": 6}, "/batch_size"),
        ({"images": {"subset": 40}}, "/images"),
    ],
)
def test_another_order_of_images_is_not_gone_on_with(fields, pointer, new_run):
    first = stopped_at(3, new_run(), loading="stream")
    with pytest.raises(SpecError, match="took its images by") as caught:
        train(new_run(first, 3), loading="stream", **fields)
    assert caught.value.pointer == pointer


def test_the_images_of_two_ranks_are_those_of_one(new_run, monkeypatch):
    """Each takes its part of every batch, and no image twice."""
    run = new_run()
    spec = spec_of(placed(run, TAR), loading="stream", images={})
    taken = []
    for rank in (None, 0, 1):
        if rank is not None:
            monkeypatch.setenv("WORLD_SIZE", "2")
            monkeypatch.setenv("RANK", str(rank))
        data = source.load(spec, run)
        plan = Plan(data, spec, Hooks())
        feed = ImageFeed(data.train, plan)
        taken.append([feed.take(step) for step in range(spec.steps(len(data.train))[1])])
    for whole, *parts in zip(*taken, strict=True):
        assert torch.equal(whole[0::2], parts[0])
        assert torch.equal(whole[1::2], parts[1])


def test_memory_does_not_grow_with_the_set(new_run, monkeypatch):
    """Four epochs of 49 MB decoded, where 16 MiB may lie in memory."""
    monkeypatch.setattr(loading, "IN_MEMORY_BYTES", 16 * 2**20)
    run, ramp = new_run(), np.linspace(0, 200, 128, dtype=np.uint8)[:, None, None]
    plain = np.broadcast_to(ramp, (128, 128, 3))
    pictures = [encoded(plain + np.uint8(k)) for k in range(20)]
    files = [(f"{('ant', 'bee')[k % 2]}/{k}.png", pictures[k % 20]) for k in range(1000)]
    spec = spec_of(placed(run, packed("tar", files)), epochs=4, batch_size=32, validation=0.0)
    data = source.load(spec, run)
    feed, (_, total) = ImageFeed(data.train, Plan(data, spec, Hooks())), spec.steps(len(data.train))
    process, used = psutil.Process(), []
    for step in range(total):
        assert feed.take(step).shape == (32, 128, 128, 3)
        used.append(process.memory_info().rss)
    assert total * 32 * 128 * 128 * 3 > 130e6
    assert max(used) - used[5] < 16 * 2**20


READS = """
import json, sys, time
from pathlib import Path
from models.core.run import Run
from models.core.spec import DatasetRef
from models.data import loading
from models.data.spec import ImageOptions

if __name__ == "__main__":
    ref = DatasetRef.model_validate_json(sys.argv[2])
    run = Run(Path(sys.argv[1]))
    data = loading.load(ref, ImageOptions(), run, 0, lambda _: 0, "stream", processes=1)
    for turn in range(10**6):
        print(sum(len(part) for part in data.train.split(8)), flush=True)
        time.sleep(0.02)
"""


def test_a_built_in_set_is_refused_before_anything_runs():
    with pytest.raises(ValidationError, match="digits is built in: leave loading out"):
        spec_of({"dataset": "digits"}, loading="stream")


@pytest.mark.slow
def test_loader_processes_outlive_a_stop_but_not_the_training(new_run, tmp_path):
    """A stop reaches every process of a run, while the training still has to save."""
    ref = placed(run := new_run(), TAR)
    (tmp_path / "reads.py").write_text(READS)
    command = [sys.executable, str(tmp_path / "reads.py"), str(run.dir), ref.model_dump_json()]
    root = {"PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=root, text=True) as reader:
        try:
            assert reader.stdout.readline() == "48\n"
            children = psutil.Process(reader.pid).children(recursive=True)
            assert len(children) == 2  # and the tracker of multiprocessing
            for child in children:
                child.send_signal(signal.SIGTERM)
            assert [reader.stdout.readline() for _ in range(20)] == ["48\n"] * 20
        finally:
            reader.kill()
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive
