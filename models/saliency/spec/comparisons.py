"""What a sweep tests, fixed in its spec before it runs. Torch-free."""

import itertools
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from models.core.spec import SpecGroup
from models.saliency.spec.fields import (
    DatasetSamples,
    GaussianNoise,
    MapBaseline,
    Noise,
    NoisyLinear,
    labels,
)
from models.saliency.spec.methods import Control, Given, Method, uses_baseline

RANDOM_METHODS = ("rise", "lime", "kernel_shap", "sobol", "smoothgrad", "meaningful")


class Comparison(SpecGroup):
    """One hypothesis: that a factor changes maps by more than their noise does."""

    factor: Literal["baseline", "hyper-parameter"] = Field(
        description="baseline: the maps of one method with different baselines; hyper-parameter: "
        "those of two variants of a method with the same baseline"
    )
    methods: list[str] = Field(
        min_length=1,
        max_length=2,
        description="Labels of methods as in the report: the id, numbered from 1 where the spec "
        "has it more than once",
    )


def comparisons_of(methods: Sequence[Method], baselines: Sequence[MapBaseline]) -> list[Comparison]:
    """Every comparison that these methods and baselines allow, controls left out."""
    named = list(zip(labels(methods), methods, strict=True))
    of_baselines = [
        Comparison(factor="baseline", methods=[label])
        for label, method in named
        if uses_baseline(method) and len(baselines) > 1
    ]
    of_variants = [
        Comparison(factor="hyper-parameter", methods=[a, b])
        for (a, first), (b, second) in itertools.combinations(named, 2)
        if first.id == second.id and not isinstance(first, Control)
    ]
    return of_baselines + of_variants


def is_random(method: Method | Given, baseline: MapBaseline) -> bool:
    """Whether the map depends on the seed, by its method or by its baseline."""
    if isinstance(method, Control):
        return method.id == "random"
    drawn = isinstance(baseline, Noise | GaussianNoise | NoisyLinear | DatasetSamples)
    return method.id in RANDOM_METHODS or (drawn and uses_baseline(method))
