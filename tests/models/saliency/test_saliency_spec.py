"""The spec of saliency.map: accepted values, and the messages of refusals."""

import pytest
from pydantic import TypeAdapter, ValidationError

from models.catalog import JobSpec
from models.core.spec import ArtifactRef
from models.saliency.spec.map import SaliencyMap

REF = {"job": "job_" + "0" * 32, "artifact": "weights.safetensors"}


def spec(**fields) -> SaliencyMap:
    return SaliencyMap.model_validate({**SaliencyMap.minimal_example, **fields})


def message(**fields) -> str:
    with pytest.raises(ValidationError) as caught:
        spec(**fields)
    (error,) = caught.value.errors()
    return f"{'.'.join(map(str, error['loc']))}: {error['msg']}"


@pytest.mark.parametrize("name", SaliencyMap.presets)
def test_presets_are_valid(name):
    fields = {**SaliencyMap.minimal_example, "batch": "auto", **SaliencyMap.presets[name]}
    adapter = TypeAdapter(JobSpec)
    preset = adapter.validate_python(fields)
    assert adapter.validate_python(preset.model_dump()) == preset  # resolved again, the same job


@pytest.mark.parametrize("target", [3, 3.0, [1, 2], "argmax", "topk:5"])
def test_targets(target):
    assert spec(target=target).target == target


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model": {"name": "x"}}, 'model: give {"job": id, "artifact": name}'),
        ({"model": {**REF, "job": "7"}}, "model.artifact.job: String should match"),
        ({"model": {"pretrained": "vgg"}}, "model.pretrained.pretrained: Input should be"),
        ({"target": "best"}, "target.word: String should match"),
        ({"target": True}, "target: give a class index"),
        ({"target": [0, -1]}, "target.list.1: Input should be greater"),
        ({"batch": 0}, "batch.number: Input should be greater"),
        ({"methods": [{"id": "magic"}]}, "methods.0: Input tag 'magic'"),
        ({"methods": [{"id": "lime", "samples": 40}]}, "under-determined; use at least 52"),
        ({"methods": [{"id": "kernel_shap", "samples": 61}]}, "use 62"),
        (
            {"methods": [{"id": "shapley_exact", "segments": {"id": "grid", "rows": 4}}]},
            "use at most 12 segments",
        ),
        ({"methods": [{"id": "extremal", "areas": [1.0]}]}, "areas.0: Input should be less"),
        (
            {"methods": [{"id": "occlusion", "window": 8, "stride": [4, 9]}]},
            "use stride <= window",
        ),
        ({"methods": [{"id": "occlusion", "window": 225}]}, "methods.0.window is 225 x 225"),
        ({"methods": [{"id": "rise", "p": 1.0}]}, "methods.0.rise.p: Input should be less"),
        (
            {"methods": [{"id": "rise", "masks": 5, "sampling": "antithetic"}]},
            "use 6 instead of 5",
        ),
        (
            {"methods": [{"id": "rise", "grid": 2, "p": 0.05, "sampling": "balanced"}]},
            "keeps none or all",
        ),
        ({"baselines": [{"id": "constant", "value": [127.0]}]}, "divide 8-bit colours by 255"),
        ({"images": [{"dataset": "photos"}] * 2}, "same image twice"),
        ({"unknown": 1}, "unknown: Extra inputs are not permitted"),
    ],
)
def test_refusals_name_the_field_and_a_way_out(fields, expected):
    assert expected in message(**fields)


def test_references_are_found_where_the_service_pins_them():
    references = dict(
        spec(model=REF, images=[{"dataset": "digits"}, {"dataset": "mine"}]).references()
    )
    assert list(references) == ["/model", "/images/0", "/images/1"]
    assert isinstance(references["/model"], ArtifactRef)


def test_rows_are_counted_by_hand():
    one = spec(
        methods=[{"id": "occlusion"}, {"id": "rise", "masks": 100}],
        baselines=[{"id": "zero"}, {"id": "shuffle", "draws": 3}],
    )
    # probe 4; image 1; path 11 a baseline image; 13 x 13 windows and 100 masks a baseline image
    assert one.rows(224, 224) == 4 + 1 + 4 * 11 + 4 * (169 + 100)
    assert one.estimate({}).total_steps == one.rows(224, 224)
    assert one.estimate({}).work == one.rows(224, 224) * 224 * 224
    small = {"mine": {"height": 32, "width": 32}}
    mine = spec(model=REF, images=[{"dataset": "mine"}], methods=[{"id": "occlusion"}])
    assert mine.estimate(small).total_steps == 4 + 1 + 11 + 1
    assert mine.estimate(small).work_unit != one.estimate({}).work_unit
    assert mine.estimate({}).total_steps is None
