"""Sources of methods: every id that a spec can name has one that is there, or needs none."""

import re
import typing

import pytest

from models.saliency import references
from models.saliency.spec import fields, graders, masks, methods

OURS = {  # plain images, segments and controls
    *("zero", "black", "white", "gray", "channel_mean", "dataset_mean", "constant", "blur"),
    *("uniform_noise", "shuffle", "gaussian_noise", "other_image", "local_mean"),
    *("random", "centre_gaussian", "edge", "grid", "feature_ablation"),
}


def ids(annotation) -> set[str]:
    """The values of ``id`` of all models in a type."""
    if hasattr(annotation, "model_fields"):
        chosen = annotation.model_fields.get("id")
        return set(typing.get_args(chosen.annotation)) if chosen else set()
    return {name for part in typing.get_args(annotation) for name in ids(part)}


@pytest.mark.parametrize(
    "annotation", [methods.Method, graders.Metric, fields.MapBaseline, masks.Segments], ids=str
)
def test_each_has_a_source(annotation):
    names = ids(annotation)
    assert len(names) > 1
    assert names <= {*references.SOURCES, *OURS}


def test_each_source_is_there_once_and_is_used():
    keys = re.findall(r"^@\w+\{(\w+),", references.FILE.read_text(), re.MULTILINE)
    used = {key for each in references.SOURCES.values() for key in each}
    assert sorted(keys) == sorted({*used, *references.ALWAYS, *references.OF_SWEEPS})
    for key in keys:
        words = references.listed(key)
        assert re.search(r"[{}\\]|None", words) is None
        assert re.search(r", \d{4}$", words)
