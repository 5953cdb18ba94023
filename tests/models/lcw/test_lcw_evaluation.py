"""What the scores rest on: the split of the data, the classifier behind fd_clf, the mixture."""

import hashlib
import io

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from models.core import checkpoint
from models.core.errors import DataError
from models.core.spec import ArtifactRef
from models.lcw import features, inception, mixture, setup
from tests.smallest import smallest

REF = {"job": "job_" + "0" * 32, "artifact": features.CLASSIFIER, "sha256": "0" * 64}


def about(spec, run):
    """What is published about the features of a run."""
    return features.make(spec, setup.load(spec, run), run).about


def with_evaluation(**fields):
    return {**smallest("lcw.train")["evaluation"], **fields}


def test_split_has_a_seed_of_its_own(make_spec, new_run):
    """Jobs that differ in the seed alone train on the same images; split_seed moves them."""
    actual = [
        setup.load(make_spec(seed=seed, images={"subset": 200, "split_seed": split}), new_run())
        for seed, split in ((0, 0), (7, 0), (0, 1))
    ]
    assert torch.equal(actual[0].train, actual[1].train)
    assert torch.equal(actual[0].validation, actual[1].validation)
    assert not torch.equal(actual[0].train, actual[2].train)


def test_classifier_follows_its_own_seed(make_spec, new_run):
    """classifier_seed alone decides the weights behind fd_clf; the seed of the job does not."""
    other = with_evaluation(classifier_seed=1)
    first, same, moved = (
        about(spec, new_run())
        for spec in (make_spec(seed=0), make_spec(seed=7), make_spec(evaluation=other))
    )
    assert first["sha256"] == same["sha256"] != moved["sha256"]
    assert (first["seed"], moved["seed"]) == (0, 1)


def test_classifier_of_another_job_gives_the_same_features(make_spec, new_run):
    """classifier_from: same weights, same features, and what is told of its training."""
    first = new_run()
    seen = features.make(make_spec(), setup.load(make_spec(), first), first)
    second = _holding(new_run(), (first.dir / features.CLASSIFIER).read_bytes())
    evaluation = with_evaluation(classifier_from=REF, classifier_seed=5)
    spec = make_spec(evaluation=evaluation)
    data = setup.load(spec, second)
    again = features.make(spec, data, second)
    assert again.about == seen.about
    assert torch.equal(again.of(data.test), seen.of(data.test))
    assert (second.dir / features.CLASSIFIER).is_file()  # to be shared once more


def test_other_files_are_no_classifier(make_spec, new_run, tmp_path):
    path = tmp_path / "weights.safetensors"
    checkpoint.write(path, {"0.weight": torch.zeros(1)}, {"lcw": {}})
    run = _holding(new_run(), path.read_bytes())
    ref = ArtifactRef(**REF).model_dump()
    spec = make_spec(evaluation=with_evaluation(classifier_from=ref))
    with pytest.raises(DataError, match="holds no classifier of images with 1 channels and 10"):
        about(spec, run)


def _holding(run, data):
    """The run with an input, placed by its checksum."""
    (run.dir / "inputs").mkdir()
    (run.dir / "inputs" / ("0" * 64)).write_bytes(data)
    return run


class Pooled(torch.nn.Module):
    """Stands in for Inception: 2,048 numbers an image."""

    def __init__(self, width=2048):
        super().__init__()
        self.last = torch.nn.Linear(3, width)

    def forward(self, x):
        return self.last(x.mean((2, 3)))


def _exported(net):
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    images = torch.zeros(2, 3, inception.SIDE, inception.SIDE)
    stream = io.BytesIO()
    torch.export.save(torch.export.export(net.eval(), (images,), dynamic_shapes=dynamic), stream)
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.export's own
def test_inception_is_the_operators_net(make_spec, new_run):
    """Features are those of the uploaded program on resized images; its checksum is told."""
    torch.manual_seed(0)
    net = Pooled()
    program = _exported(net)
    run = _holding(new_run(), program)
    ref = {"dataset": "inception", "sha256": "0" * 64}
    fields = {"features": "fid_inception", "inception": ref, "num_samples": 3000}
    spec = make_spec(evaluation=with_evaluation(**fields))
    data = setup.load(make_spec(), run)  # too few for a distance in these features
    seen = features.make(spec, data, run)
    assert seen.about["sha256"] == hashlib.sha256(program).hexdigest()
    assert seen.about["id"] == "fid_inception"
    x = (data.test[:70].permute(0, 3, 1, 2).float() - 128) / 128
    with torch.no_grad():
        expected = net(inception.resize(x, inception.SIDE).expand(-1, 3, -1, -1))
    torch.testing.assert_close(seen.of(data.test[:70]), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nets_with_other_features_are_refused(new_run, tmp_path):
    path = tmp_path / "net.pt2"
    path.write_bytes(_exported(Pooled(10)))
    of = inception.features(path, new_run())
    with pytest.raises(DataError, match=r"gives \[3, 10\] for 3 images"):
        of(torch.zeros(3, 8, 8, 1, dtype=torch.uint8))


def test_resize_is_that_of_tensorflow_1():
    """Pixel k lies at k times the ratio of the sides; a constant image stays what it is."""
    x = torch.tensor([[[[0.0, 3.0], [6.0, 9.0]]]])
    expected = torch.tensor([[0.0, 1.5, 3.0, 3.0], [3.0, 4.5, 6.0, 6.0]])
    torch.testing.assert_close(inception.resize(x, 4)[0, 0, :2], expected)
    plain = torch.full((1, 3, 8, 8), 5.0)
    torch.testing.assert_close(inception.resize(plain, 299), torch.full((1, 3, 299, 299), 5.0))


def _clouds(seed=0):
    g = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(4, 3, generator=g)
    return (centres.repeat(300, 1) + 0.7 * torch.randn(1200, 3, generator=g)).double()


def test_mixture_steps_as_scikit_learn():
    """One expectation and maximisation from the same start: the same means and covariances."""
    x = _clouds()
    draws = torch.Generator().manual_seed(1)
    shares = torch.randn(len(x), 4, generator=draws).double().softmax(1)
    first = mixture.maximise(x, shares)
    second = mixture.maximise(x, mixture.log_joint(first, x).softmax(1))
    peer = GaussianMixture(
        4,
        weights_init=first.weights.numpy(),
        means_init=first.means.numpy(),
        precisions_init=torch.linalg.inv(first.roots @ first.roots.mT).numpy(),
        max_iter=1,
    )
    with pytest.warns(ConvergenceWarning):  # it was one step
        peer.fit(x.numpy())
    assert np.abs(peer.means_ - second.means.numpy()).max() < 1e-9
    assert np.abs(peer.covariances_ - (second.roots @ second.roots.mT).numpy()).max() < 1e-9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mixture_is_as_likely_as_scikit_learns(seed):
    """Begun by k-means: a fit no worse than the usual one, from any seed."""
    x = _clouds(seed)
    actual = mixture.fit(x, 4, torch.Generator().manual_seed(seed))
    mean = mixture.log_joint(actual, x).logsumexp(1).mean().item()
    assert mean >= GaussianMixture(4, random_state=seed).fit(x.numpy()).score(x.numpy()) - 0.01


def test_draws_of_a_mixture_have_its_moments():
    x = _clouds()
    actual = mixture.fit(x, 4, torch.Generator().manual_seed(0))
    y = mixture.draw(actual, 20_000, torch.Generator().manual_seed(1))
    assert (y.mean(0) - x.mean(0)).abs().max() < 0.1
    assert (torch.cov(y.T) - torch.cov(x.T)).abs().max() < 0.15
    torch.testing.assert_close(y, mixture.draw(actual, 20_000, torch.Generator().manual_seed(1)))


def test_mixture_of_equal_points_is_finite():
    """No spread at all: the ridge keeps the covariances invertible."""
    x = torch.ones(20, 3)
    actual = mixture.fit(x, 4, torch.Generator().manual_seed(0))
    drawn = mixture.draw(actual, 10, torch.Generator().manual_seed(0))
    assert (drawn - 1).abs().max() < 0.1
