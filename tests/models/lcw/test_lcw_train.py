"""Training end to end: what each phase moves, what it learns, what it leaves."""

import json
import math
import re

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from models.core import checkpoint, optimizers
from models.core.errors import DataError, DivergedError, SpecError
from models.core.run import Run, StoppedError
from models.core.spec import ArtifactRef
from models.lcw import distance, export, nets, objectives, paths, setup, stages
from models.lcw import sample as sampling
from models.lcw import train as method
from models.lcw.distance import normality, two_sample
from models.lcw.fields import Architecture, GeneratorShape, Phase1, Phase2
from models.lcw.setup import load_nets
from models.lcw.spec import LcwSample, LcwTrain
from tests.smallest import smallest


def events(run, kind):
    lines = (run.dir / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["type"] == kind]


def job_of(spec, run):
    data = setup.load(spec, run)
    return setup.make_training(spec, data, run), data


def frozen(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def test_phase_2_moves_the_generator_alone(make_spec, new_run):
    """Property 10: encoder and decoder bit-identical, running statistics of batch norm included."""
    training, data = job_of(make_spec(), new_run())
    training.train(0, setup.autoencoder_stage(training, data))
    before = {name: frozen(net) for name, net in training.nets.items()}
    training.train(1, setup.generator_stage(training, data))
    for name in ("encoder", "decoder"):
        for key, tensor in training.nets[name].state_dict().items():
            assert torch.equal(tensor, before[name][key]), (name, key)
    moved = training.nets["generator"].state_dict()
    assert not torch.equal(moved["0.weight"], before["generator"]["0.weight"])


def falling():
    """The smallest spec with rates that fall."""
    phases = {
        name: {**smallest("lcw.train")[name], "schedule": "cosine"} for name in ("phase1", "phase2")
    }
    return LcwTrain.model_validate({**smallest("lcw.train"), **phases})


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Weights of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    with (folder / "events.jsonl").open("w") as lines:
        method.train(falling(), Run(folder, lines, checkpoint_interval_s=1e9))
    return checkpoint.read(folder / "weights.safetensors")[0]


@pytest.mark.parametrize("stop_at", [pytest.param(2, marks=pytest.mark.slow), 6, 9])
def test_resumed_from_any_stage(uninterrupted, new_run, stop_at):
    """Property 11: stopped in phase 1, between the phases, in phase 2: the same bits in the end."""
    spec, stopped = falling(), new_run()
    seen = 0

    def stop_at_step():
        nonlocal seen
        seen += 1
        if seen == stop_at:
            stopped.request_stop("test")
        return False

    stopped.checkpoint_due = stop_at_step
    with pytest.raises(StoppedError):
        method.train(spec, stopped)
    last = [event for event in events(stopped, "artifact") if event["role"] == "checkpoint"][-1]
    resumed = new_run(resume=stopped, step=last["step"])
    method.train(spec, resumed)
    actual = checkpoint.read(resumed.dir / "weights.safetensors")[0]
    assert actual.keys() == uninterrupted.keys()
    assert all(torch.equal(actual[name], uninterrupted[name]) for name in actual)


def test_cosine_rate_falls_to_nothing(make_spec, new_run, monkeypatch):
    """As lr (1 + cos(pi step / steps)) / 2 where asked for, a peer over its own steps; else lr."""
    given = []
    advance = optimizers.Adam.step

    def step(self, *args, **kwargs):
        given.append(float(self.param_groups[0]["lr"]))
        return advance(self, *args, **kwargs)

    monkeypatch.setattr(optimizers.Adam, "step", step)
    spec = make_spec(
        phase1={"max_steps": 4, "batch_size": 32, "schedule": "cosine"},
        phase2={"max_steps": 2, "batch_size": 32},
        evaluation={"num_samples": 100, "baselines": ["cwae"]},
    )
    training, data = job_of(spec, new_run())
    for number, name in enumerate(spec.steps()):
        training.train(number, method._stage(training, data, name))
    first, last = ([0.5 + 0.5 * math.cos(math.pi * k / n) for k in range(n)] for n in (4, 6))
    assert given == pytest.approx([2e-3 * share for share in (*first, 1, 1, *last)])


def test_checkpoint_of_another_architecture_is_refused(make_spec, new_run):
    spec, stopped = make_spec(), new_run()
    stopped.request_stop("test")
    with pytest.raises(StoppedError):
        method.train(spec, stopped)
    other = make_spec(arch={"latent_dim": 5, "width": 16})
    with pytest.raises(SpecError, match="the checkpoint is of"):
        method.train(other, new_run(resume=stopped, step=1))


@pytest.mark.parametrize("spread", [0.1, 10.0])
def test_phase_2_does_not_depend_on_the_units_of_the_latents(spread):
    """The latents of a plain autoencoder may be of any size: the generator starts at theirs.

    As many steps bring a target in other units as near, in its own units, as one of unit spread.
    """
    g = torch.Generator().manual_seed(0)
    target = torch.randn(500, 4, generator=g) + torch.tensor([3.0, 0, 0, 0])
    actual = []
    for scale in (1.0, spread):
        torch.manual_seed(0)
        net = nets.latent_generator(4, 4, GeneratorShape(depth=1, width=16))
        encoded = target * scale
        net[-1].fit(encoded)
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
        gamma = distance.silverman(encoded.std().item(), 64)
        for step in range(20):
            optimizer.zero_grad()
            noise = torch.randn(64, 4, generator=torch.Generator().manual_seed(step))
            two_sample(net(noise), encoded, gamma, include_yy=False).backward()
            optimizer.step()
        made = nets.in_parts(net, torch.randn(500, 4, generator=g.manual_seed(1)))
        actual.append(two_sample(made / scale, target, 0.1).item())
    assert actual[1] == pytest.approx(actual[0], rel=0.02)


@pytest.mark.slow
def test_eight_gaussians_are_covered():
    """Property 12: a generator of 2-D points trained by the distance alone finds all 8 modes."""
    torch.manual_seed(0)
    angle = torch.arange(8) * (math.tau / 8)
    centres = torch.stack([angle.cos(), angle.sin()], 1) * 3
    net = nets.latent_generator(2, 2, GeneratorShape(depth=3, width=64))
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(1500):
        target = centres[torch.randint(8, (256,))] + 0.1 * torch.randn(256, 2)
        optimizer.zero_grad()
        two_sample(net(torch.randn(256, 2)), target, 0.05, "exact", include_yy=False).backward()
        optimizer.step()
    made = nets.in_parts(net, torch.randn(2000, 2))
    gap, mode = torch.cdist(made, centres).min(1)
    counts = torch.bincount(mode[gap < 0.5], minlength=8)
    assert (counts > 100).all()


def test_normal_target_is_reached():
    """Property 12: points moved by the gradient come as near to N(0, I) as true samples."""
    torch.manual_seed(0)
    x = (torch.rand(128, 8) * 2 + 1).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        torch.log(normality(x) + 1e-7).backward()
        optimizer.step()
    true = [normality(torch.randn(128, 8)).item() for _ in range(10)]
    assert normality(x.detach()).item() <= max(true)


def test_set_distance_ignores_the_order_of_reconstructions():
    """Section 3: cw2's data term is blind to permutations within a batch, squared error is not."""
    torch.manual_seed(0)
    x, decoded, z = torch.rand(16, 1, 4, 4), torch.rand(16, 1, 4, 4), torch.randn(16, 4)
    spec = Phase1(objective="cw2", penalty=0.0)
    plain, mixed = (objectives.autoencoder(spec, x, z, y, 0.3) for y in (decoded, decoded.flip(0)))
    assert mixed.item() == pytest.approx(plain.item(), rel=1e-6)
    assert objectives.squared_error(x, x.flip(0)) > 0.1


@pytest.mark.parametrize("objective", ["ae", "cwae", "cw2"])
def test_objectives_are_their_formulas(objective):
    """Section 3, written out."""
    torch.manual_seed(0)
    x, y, z = torch.rand(16, 1, 4, 4), torch.rand(16, 1, 4, 4), torch.randn(16, 4)
    weight = {"penalty": 2.0} if objective != "ae" else {}
    spec = Phase1(objective=objective, **weight, gamma_mode="value", gamma=0.1, eps=1e-5)
    square = (x - y).square().sum() / 16
    normal = 2 * torch.log(normality(z) + 1e-5)
    set_term = torch.log(two_sample(y.flatten(1), x.flatten(1), 0.1) + 1e-5)
    expected = {"ae": square, "cwae": square + normal, "cw2": set_term + normal}[objective]
    actual = objectives.autoencoder(spec, x, z, y, 1.0)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-6)


def test_bandwidth_rules():
    """Section 2: fixed of the whole target, dynamic of the batch without a gradient, or given."""
    target = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    fixed = objectives.bandwidth(Phase2(), 0.5, target, 64)
    assert fixed == distance.silverman(0.5, 64)
    dynamic = objectives.bandwidth(Phase2(gamma_mode="dynamic"), 0.5, target, 64)
    assert dynamic == distance.silverman(target.std().item(), 64)
    assert objectives.bandwidth(Phase2(gamma_mode="value", gamma=0.7), 0.5, target, 64) == 0.7


@pytest.mark.parametrize("fields", [{"reference": "full"}, {"statistic": "u"}, {"phi": "exact"}])
def test_options_of_phase_2_reach_the_loss(make_spec, new_run, fields):
    """Section 3 (a), (b): the loss of a step is the distance with that option."""
    phase = {**smallest("lcw.train")["phase2"], **fields}
    spec = make_spec(phase2=phase)
    training, data = job_of(spec, new_run())
    stage = setup.generator_stage(training, data)
    rows = torch.arange(20)
    encoded = setup.encode(training.nets["encoder"], data.train)
    made = training.nets["generator"](setup.noise(0, "generator", 3, (20, 4), "cpu"))
    gamma = distance.silverman(encoded.std().item(), 20)
    whole = fields.get("reference") == "full"
    expected = two_sample(
        made,
        encoded if whole else encoded[rows],
        gamma,
        fields.get("phi", "asymptotic"),
        include_yy=not whole,
        statistic=fields.get("statistic", "v"),
    )
    assert stage.loss(stage.inputs(rows, 3)).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("arch", "shape"),
    [
        (Architecture(latent_dim=8), nets.ImageShape(1, 28)),
        (Architecture(latent_dim=48), nets.ImageShape(3, 32)),
        (Architecture(latent_dim=16, noise_dim=4, depth=4, width=8), nets.ImageShape(3, 64)),
        (Architecture(preset="conv", latent_dim=4, depth=2, width=8), nets.ImageShape(1, 28)),
    ],
)
def test_architectures(arch, shape):
    """Section 4: image to latent to image of the same shape in [0, 1]; noise to latent."""
    torch.manual_seed(0)
    arch = arch.resolve(shape.side, shape.channels)
    built = nets.build(arch, shape)
    x = torch.rand(4, shape.channels, shape.side, shape.side)
    z = built.encoder(x)
    y = built.decoder(z)
    assert z.shape == (4, arch.latent_dim)
    assert y.shape == x.shape
    assert y.min() >= 0
    assert y.max() <= 1
    assert built.generator(torch.randn(4, arch.inputs)).shape == z.shape


def test_svhn_shapes_are_the_published_ones():
    """Section 4: Linear(4096, d), Linear(d, 256 * 8 * 8)."""
    built = nets.build(Architecture(latent_dim=48).resolve(32, 3), nets.ImageShape(3, 32))
    assert built.encoder[-1].in_features == 4096
    assert built.decoder[0].out_features == 256 * 8 * 8
    convolutions = [m for m in built.decoder if isinstance(m, nn.ConvTranspose2d)]
    assert [m.out_channels for m in convolutions] == [128, 64, 3]


@pytest.mark.parametrize(
    ("preset", "shape"), [("mlp", nets.ImageShape(1, 8)), ("conv", nets.ImageShape(3, 16))]
)
def test_onnx_is_the_net(tmp_path, preset, shape):
    """Section 5: open batch, 1e-4 from torch, by a runtime that we did not write."""
    torch.manual_seed(0)
    arch = Architecture(preset=preset, latent_dim=4, width=8, generator=GeneratorShape(width=8))
    built = nets.build(arch.resolve(shape.side, shape.channels), shape)
    for net in built:
        net.train()
    built.decoder(built.generator(torch.randn(64, 4)))  # statistics other than 0 and 1
    net = built.whole().eval()
    about = {"lcw": {"image": [3]}}
    export.write(tmp_path / "net.onnx", net, 4, torch.randn(4, 4), about)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    kept = session.get_modelmeta().custom_metadata_map
    assert {name: json.loads(text) for name, text in kept.items()} == about
    for batch in (1, 7):
        x = torch.randn(batch, 4)
        (actual,) = session.run(None, {"noise": x.numpy()})
        assert np.abs(actual - net(x).detach().numpy()).max() <= 1e-4


def test_interpolations_end_at_the_ends():
    """Linear and spherical paths start and end at the given noise; the arc keeps its radius."""
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 6, generator=g), torch.randn(3, 6, generator=g)
    for spherical in (False, True):
        path = paths.path_between(a, b, 5, spherical=spherical)
        torch.testing.assert_close(path[:, 0], a)
        torch.testing.assert_close(path[:, -1], b)
    unit = [x / x.norm(dim=1, keepdim=True) for x in (a, b)]
    arc = paths.path_between(*unit, 7, spherical=True)
    torch.testing.assert_close(arc.norm(dim=2), torch.ones(3, 7))


def shown_images(run):
    """What the view shows beside samples, each array being where the view says."""
    seen = json.loads((run.dir / "view.json").read_text())
    arrays, raw = np.load(run.dir / seen["file"]), (run.dir / seen["file"]).read_bytes()
    grid = seen["grid"]
    places = {"samples": grid["offset"], "nearest": grid["beside"]}
    places |= {strip["title"]: strip["offset"] for strip in seen["strips"]}
    for name, array in arrays.items():
        assert raw[places[name] :].startswith(array.tobytes())
        assert list(array.shape[-3:]) == seen["shape"]
    assert len(arrays["samples"]) == grid["count"]
    for strip in seen["strips"]:
        assert arrays[strip["title"]].shape[:2] == (strip["pairs"], strip["steps"]) == (6, 28)
    return [name for name in arrays if name != "samples"]


def test_whole_job_and_its_samples(make_spec, new_run):
    """Scores of method and peers, floors, pictures; then samples from its weights."""
    names = ["gmm10", "normal", "cwae", "wae_mmd", "swae"]
    evaluation = {**smallest("lcw.train")["evaluation"], "baselines": names}
    spec, run = make_spec(evaluation=evaluation), new_run()
    method.train(spec, run)
    (result,) = (event["values"] for event in events(run, "result"))
    assert list(result["scores"]) == ["lcw", *names]
    assert all(score["frechet"] > 0 for score in result["scores"].values())
    assert result["floor"]["frechet"] < min(s["frechet"] for s in result["scores"].values())
    left = {event["name"] for event in events(run, "artifact")}
    for info in LcwTrain.artifacts:
        pattern = re.compile(re.escape(info.name).replace(r"\*", "[^/]*"))
        assert any(pattern.fullmatch(name) for name in left), info.name
    page = (run.dir / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 6
    assert "not FIDs" in page
    ref = {"job": "job_" + "0" * 32, "artifact": "weights.safetensors", "sha256": "0" * 64}
    actual = []
    for count in (600, 700):
        again = new_run()
        (again.dir / "inputs").mkdir()
        weights = (run.dir / "weights.safetensors").read_bytes()
        (again.dir / "inputs" / ("0" * 64)).write_bytes(weights)
        again_spec = LcwSample.model_validate({"kind": "lcw.sample", "model": ref, "count": count})
        sampling.sample(again_spec, again)
        actual.append(np.load(again.dir / "samples.npz"))
    assert shown_images(again) == ["linear in noise", "spherical in noise"]
    assert shown_images(run) == ["nearest", "linear in noise", "spherical in noise"]
    assert actual[0]["images"].shape == (600, 8, 8, 1)
    assert (actual[0]["images"] == actual[1]["images"][:600]).all()
    loaded = load_nets(run.dir / "weights.safetensors", "cpu")[0]
    with torch.no_grad():
        images = loaded.nets.whole()(torch.from_numpy(actual[0]["noise"][:8]))
    assert np.abs(images.permute(0, 2, 3, 1).numpy() * 255 - actual[0]["images"][:8]).max() <= 1.001


def test_phase_1_can_be_taken_over(make_spec, new_run):
    """Weights of another job: phase 1 is skipped and its nets are the same bits."""
    first = new_run()
    method.train(make_spec(), first)
    second = new_run()
    (second.dir / "inputs").mkdir()
    weights = (first.dir / "weights.safetensors").read_bytes()
    (second.dir / "inputs" / ("0" * 64)).write_bytes(weights)
    ref = ArtifactRef(job="job_" + "0" * 32, artifact="weights.safetensors", sha256="0" * 64)
    spec = make_spec(phase1_from=ref.model_dump(), seed=5)
    assert list(spec.steps()) == ["generator"]
    method.train(spec, second)
    a, b = (checkpoint.read(run.dir / "weights.safetensors")[0] for run in (first, second))
    assert all(torch.equal(a[k], b[k]) for k in a if not k.startswith("generator"))
    assert not torch.equal(a["generator.0.weight"], b["generator.0.weight"])
    wider = make_spec(phase1_from=ref.model_dump(), arch={"latent_dim": 4, "width": 32})
    with pytest.raises(SpecError, match="phase1_from holds"):
        job_of(wider, second)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    checkpoint.write(path, {"a": torch.zeros(1)}, {"net": {"name": "resnet8"}})
    with pytest.raises(DataError, match=r"holds no generator of lcw\.train"):
        load_nets(path, "cpu")


def test_divergence_is_told(make_spec, new_run):
    training, data = job_of(make_spec(), new_run())
    stage = setup.autoencoder_stage(training, data)
    weight = training.nets["encoder"][1].weight
    broken = stage.__class__(**{**vars(stage), "loss": lambda *_: weight.sum() * math.nan})
    with pytest.raises(DivergedError, match="the autoencoder was not finite"):
        training.train(0, broken)


def test_patience_ends_a_stage(make_spec, new_run):
    """Validations without a gain end a stage; the job goes on with the next."""
    phase = {"max_steps": 40, "batch_size": 32, "validate_every": 2, "patience": 2}
    training, data = job_of(make_spec(phase1=phase), new_run())
    stage = setup.autoencoder_stage(training, data)
    flat = stage.__class__(**{**vars(stage), "validate": lambda: 1.0})
    training.train(0, flat)
    assert training.state.history["autoencoder"][-1]["step"] == 6
    assert training.done() == 40


def test_progress_is_stored_under_the_keys_of_the_format():
    """Checkpoints of earlier releases call the count ``stale``."""
    progress = stages.StageProgress(stage=1, step=7, best=0.5, validations_without_improvement=2)
    stored = progress.stored()
    assert stored == {"stage": 1, "step": 7, "best": 0.5, "stale": 2, "history": {}}
    assert stages.StageProgress.restored(stored) == progress
