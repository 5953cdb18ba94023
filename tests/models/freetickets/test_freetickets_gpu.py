"""On a GPU: a whole job in recorded steps, masks as on a CPU, ways to run, 2:4 layers."""

import csv
import json
from dataclasses import replace

import pytest
import torch

from models.core.run import Run, StoppedError
from models.data import images, synthetic
from models.freetickets import infer, masks, report, sparse
from models.freetickets import train as method
from models.freetickets.spec import FreeTicketsTrain
from models.nets import tickets
from models.nets.build import build_net
from models.supervised.steps import moments

pytestmark = [pytest.mark.gpu]


@pytest.fixture(scope="module")
def on_gpu():
    """Four classes of 16 x 16 colour patterns."""
    pairs = [synthetic.blobs(n, 4, 16, 3, seed) for n, seed in ((256, 1), (64, 2))]
    return images.from_tensors(*map(list, pairs), list("abcd"), "cuda")


def spec_of(**fields):
    base = {
        "kind": "freetickets.train",
        "model": {"name": "wide_resnet", "depth": 10, "widen": 2},
        "data": {"dataset": "none"},
        "max_steps": 60,
        "members": 2,
        "batch_size": 32,
        "update_interval": 5,
        "optimizer": {"lr": 0.05, "nesterov": False},
    }
    return FreeTicketsTrain.model_validate(base | fields)


@pytest.fixture
def job(tmp_path, on_gpu):
    """Prepares jobs in folders of their own; ``resume`` is a checkpoint's name in the last one."""
    opened = []

    def make(spec, resume=None):
        folder = tmp_path / f"run{len(opened)}"
        (folder / "resume").mkdir(parents=True)
        if resume is not None:
            saved = (opened[-1][0] / "checkpoints" / resume).read_bytes()
            (folder / "resume" / resume).write_bytes(saved)
        events = (folder / "events.jsonl").open("w")
        opened.append((folder, events))
        run = Run(folder, events, device="cuda", checkpoint_interval_s=1e9)
        return method.prepare(spec, on_gpu, run)

    yield make
    for _, events in opened:
        events.close()


@pytest.mark.parametrize(
    "fields", [{}, {"variant": "dst", "precision": "fp32"}, {"growth": "random"}]
)
def test_zeros_stay_zero_in_recorded_steps(job, monkeypatch, fields):
    """Properties 1 and 2 in CUDA graphs: counts exact, weights and momentum outside masks 0."""
    training, seen = job(spec_of(**fields)), []
    topology, attach = training.topology, training.topology.attach
    monkeypatch.setattr(
        topology, "attach", lambda optimizer: (attach(optimizer), seen.append(optimizer))
    )
    begin = method.fit

    def fit(*args):
        *others, hooks = args

        def look(x, step):
            changed = hooks.prepare(x, step)
            buffers = moments(training.net, seen[0])
            for name, mask in topology.masks.items():
                assert int(mask.sum()) == topology.active[name]
                assert not topology.weights[name][~mask].any()
                assert not any(x[~mask].any() for x in buffers[f"{name}.weight"])
            return changed

        return begin(*others, replace(hooks, prepare=look))

    monkeypatch.setattr(method, "fit", fit)
    fitted = method.fit_tickets(training)
    assert fitted.steps == 60
    assert all(row["dropped"] > 0 for row in training.changes())


@pytest.mark.usefixtures("_deterministic")
@pytest.mark.parametrize("step", [23, 40], ids=["mid-phase", "escape"])
def test_resumed_masks(job, step, monkeypatch):
    """Property 9 on a GPU: stopped and resumed, tickets and masks have the same bits."""
    spec = spec_of(precision="fp32", compile="off")
    whole = job(spec)
    method.fit_tickets(whole)
    first, rate = job(spec), method.rate

    def stopping(spec, plan, at):
        if at == step - 1:
            first.run.request_stop("test")
        return rate(spec, plan, at)

    monkeypatch.setattr(method, "rate", stopping)
    with pytest.raises(StoppedError):
        method.fit_tickets(first)
    monkeypatch.setattr(method, "rate", rate)
    again = job(spec, resume=f"step-{step:08d}.safetensors")
    method.fit_tickets(again)
    for name, expected in whole.extras().items():
        assert torch.equal(again.extras()[name], expected), name


@pytest.mark.parametrize("capped", [False, True])
@pytest.mark.parametrize("regrow", [False, True])
def test_masks_change_as_on_a_cpu(capped, regrow):
    """Ties of half precision included: the lower index first on both."""
    draw = torch.Generator().manual_seed(0)
    shape = torch.Size((96, 64, 3, 3))
    mask = masks.capped_mask(shape, shape.numel() // 7, draw)
    weight = (torch.randn(shape, generator=draw) * mask).bfloat16().float()
    wish = torch.rand(shape, generator=draw).bfloat16().float()
    named = {"regrow_dropped": regrow, "capped": capped}
    here = masks.change(weight, mask, wish, 0.5, **named)
    there = masks.change(*(x.cuda() for x in (weight, mask, wish)), 0.5, **named)
    assert torch.equal(here.mask, there.mask.cpu())
    assert torch.equal(here.kept, there.kept.cpu())
    assert (here.dropped, int(here.regrown)) == (there.dropped, int(there.regrown))


@pytest.mark.parametrize("size", [1, 64])
def test_every_way_to_run_gives_the_answer_of_the_members(size):
    """All four as CUDA graphs, called twice: a graph that kept its first images would fail."""
    nets = []
    for seed in range(3):
        torch.manual_seed(seed)
        net = build_net({"name": "wide_resnet", "depth": 10, "widen": 2}, 4, 3).cuda()
        net(torch.randn(64, 3, 16, 16, device="cuda"))
        nets.append(infer.fold(net).to(memory_format=torch.channels_last))
    x, other = (
        torch.randn(size, 3, 16, 16, device="cuda").contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )
    choice = infer.fastest(nets, x, rounds=3)
    assert set(choice.milliseconds) | set(choice.left_out) == {
        "sequential", "grouped", "vmap", "streams"
    }  # fmt: skip
    assert {"sequential", "streams"} <= set(choice.milliseconds)
    with torch.inference_mode():
        for shown in (x, other):
            expected = torch.stack([net(shown) for net in nets])
            torch.testing.assert_close(choice.run(shown), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.filterwarnings("ignore:torch._cslt_sparse_mm_search is deprecated")
def test_sparse_tensor_cores_multiply_capped_weights():
    """The layer is the dense one within bf16, and what is kept is what was faster."""
    draw = torch.Generator().manual_seed(0)
    mask = masks.capped_mask(torch.Size((1024, 1024)), 1024 * 512, draw)
    weight = (torch.randn(1024, 1024, generator=draw) * mask).bfloat16().cuda()
    x = torch.randn(512, 1024, generator=draw).bfloat16().cuda()
    timed = sparse.time_24(weight, x, rounds=5)
    assert timed.reason in ("faster", "slower than dense"), timed.reason
    assert (timed.kept == "2:4") == (timed.sparse_ms < timed.dense_ms)
    actual = sparse.Linear24(weight, None, x)(x)
    torch.testing.assert_close(actual, x @ weight.T, rtol=2e-2, atol=0.5)


def test_a_job_leaves_tickets_ensemble_and_timings(job):
    """From training to files; layers that cannot skip zeros stay dense and say why."""
    spec = spec_of(
        model={"name": "resnet50", "width": 16},
        structure="cap24",
        sparsity=0.9,
        export={"timings": [32]},
        evaluate={"fgsm_eps": [0.03]},
    )
    training = job(spec)
    report.finish(training, method.fit_tickets(training))
    folder = training.run.dir
    assert len(tickets.load(folder / "ensemble.safetensors").nets) == 2
    contents = json.loads((folder / "report.json").read_text())
    assert contents["result"]["peak_gpu_bytes"]["full"] > 0
    (ways,) = contents["timings"]["ways"]
    assert ways["ms"][ways["chosen"]] == min(ways["ms"].values())
    with (folder / "layers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["kept"] for row in rows} <= {"dense", "2:4"}
    assert all(row["reason"] for row in rows)
    timed = [row for row in rows if row["sparse_ms"]]
    assert timed, {row["reason"] for row in rows}
