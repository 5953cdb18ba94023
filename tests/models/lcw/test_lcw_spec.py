"""What the specs take, what they refuse and in which words."""

import pytest
from pydantic import TypeAdapter, ValidationError

from models.catalog import JobSpec
from models.core.errors import SpecError
from models.lcw import setup
from models.lcw.spec import LcwSample, LcwTrain


def message(**fields):
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(JobSpec).validate_python({**LcwTrain.minimal_example, **fields})
    (error,) = caught.value.errors()
    return f"{'.'.join(map(str, error['loc']))}: {error['msg']}"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"arch": {"latent_dim": 1}},
            "arch.latent_dim: Input should be greater than",
        ),
        ({"phase1": {"batch_size": 7}}, "batch_size: Input should be greater than or equal to 8"),
        (
            {"phase2": {"gamma_mode": "value", "gamma": 0.0}},
            "gamma: Input should be greater than",
        ),
        ({"phase2": {"gamma": 0.1}}, "gamma goes with gamma_mode value"),
        ({"phase2": {"gamma_mode": "value"}}, "gamma goes with gamma_mode value"),
        ({"arch": {"latent_dim": 3}}, "use exact, or latent_dim of 4 or more"),
        (
            {"evaluation": {"num_samples": 64}},
            "needs more than 64 samples; 10 times as many are better",
        ),
        (
            {"evaluation": {"features": "fd_effnetlite0", "num_samples": 1280}},
            "1280 dimensions of fd_effnetlite0",
        ),
        ({"evaluation": {"features": "fid"}}, "should be 'fd_clf', 'fd_effnetlite0' or 'fid_"),
        ({"evaluation": {"features": "fid_inception"}}, "give fid_inception the net's data set"),
        (
            {"evaluation": {"inception": {"dataset": "net"}}},
            "give fid_inception the net's data set",
        ),
        (
            {
                "evaluation": {
                    "features": "fid_inception",
                    "inception": {"dataset": "net"},
                    "num_samples": 2048,
                }
            },
            "2048 dimensions of fid_inception",
        ),
        ({"evaluation": {"baselines": ["cwae", "cwae"]}}, "baselines names one twice"),
        ({"phase1": {"objective": "ae", "penalty": 2}}, "has no effect with objective ae"),
        ({"phase1": {"lambda": 1.0}}, "lambda: Extra inputs are not permitted"),
    ],
)
def test_refusals_name_the_field_and_a_way_out(fields, expected):
    assert expected in message(**fields)


def test_three_dimensions_work_exactly(make_spec):
    spec = make_spec(arch={"latent_dim": 3}, phase2={"phi": "exact"})
    assert spec.arch.latent_dim == 3


@pytest.mark.parametrize(
    ("counts", "arch", "expected"),
    [
        ({"height": 30, "width": 30, "channels": 3}, {"preset": "conv"}, "multiple of 8"),
        ({"height": 8, "width": 9, "channels": 1}, {}, "not square"),
    ],
)
def test_known_counts_refuse_images(make_spec, counts, arch, expected):
    with pytest.raises(SpecError, match=expected):
        make_spec(arch=arch).estimate({"digits": counts})


def test_estimate_counts_stages(make_spec):
    """Peers with autoencoders of their own get as many steps as both phases together."""
    evaluation = {"num_samples": 100, "baselines": ["gmm10", "cwae"]}
    actual = make_spec(evaluation=evaluation).estimate({"digits": {"train": 1437, "test": 360}})
    assert actual.total_steps == 6 + 6 + 12
    assert actual.details["cwae"] == 12
    assert actual.details["autoencoder_epochs"] == pytest.approx(6 * 32 / 180)


@pytest.mark.parametrize(
    ("train", "test", "images", "expected"),
    [
        (1000, 64, {}, "more than 64 of each"),
        (71, 100, {}, "63 training and 100 test images"),
        (40, 100, {}, "8 of each are needed"),
        (100, 100, {"subset": 101}, "more than the 100 training images"),
    ],
)
def test_too_few_images_are_refused_before_the_job_runs(make_spec, train, test, images, expected):
    spec = make_spec(images=images)
    with pytest.raises(SpecError, match=expected):
        spec.estimate({"digits": {"train": train, "test": test}})


def test_a_job_keeps_as_many_images_as_the_estimate_counts(make_spec, new_run):
    """What the service counted without the images is what the run splits."""
    spec = make_spec(images={"subset": 201, "val_fraction": 0.11})
    data = setup.load(spec, new_run())
    assert (len(data.train), len(data.validation)) == (spec.kept(1437, 360), 23)


def test_sample_needs_a_model():
    with pytest.raises(ValidationError, match="digits"):
        LcwSample.model_validate({"kind": "lcw.sample", "model": {"pretrained": "faces"}})
