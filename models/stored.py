"""The table of kinds; from a stored spec to the code of its kind, importing no other.

This is part of the start of every child: all specs together take longer than the rest of it.
"""

from collections.abc import Callable
from copy import deepcopy
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from models.core.errors import SpecError
from models.core.run import Run
from models.core.serving import Answerer
from models.core.spec import ArtifactRef, Spec

FIELDS_NAMED = 20  # of a wrong spec
CLASSES = {
    "dynamic_downsampling.train": "models.dynamic_downsampling.spec:DynamicDownsamplingTrain",
    "dynamic_downsampling.plan": "models.dynamic_downsampling.spec:DynamicDownsamplingPlan",
    "selective_convolution.train": "models.selective_convolution.spec:SelectiveConvolutionTrain",
    "saliency.map": "models.saliency.spec.map:SaliencyMap",
    "saliency.evaluate": "models.saliency.spec.evaluate:SaliencyEvaluate",
    "saliency.sweep": "models.saliency.spec.evaluate:SaliencySweep",
    "saliency.roar": "models.saliency.spec.roar:SaliencyRoar",
    "terrain.train": "models.terrain.spec.train:TerrainTrain",
    "terrain.downsample": "models.terrain.spec.floods:TerrainDownsample",
    "terrain.simulate": "models.terrain.spec.floods:TerrainSimulate",
    "terrain.compare": "models.terrain.spec.floods:TerrainCompare",
    "freetickets.train": "models.freetickets.spec:FreeTicketsTrain",
    "lcw.train": "models.lcw.spec:LcwTrain",
    "lcw.sample": "models.lcw.spec:LcwSample",
    "classify.predict": "models.classify.spec:ClassifyPredict",
}


def load_stored(stored: dict[str, Any]) -> tuple[Any, list[str]]:
    """A spec that this or an earlier release accepted, and warnings of what had to change.

    Raises:
        SpecError: naming the wrong fields, or the kinds that there are.
    """
    kind = stored.get("kind")
    if kind not in CLASSES:
        raise SpecError(f"there is no kind {kind!r}; there are {', '.join(map(repr, CLASSES))}")
    spec, warnings = upgrade(stored)
    try:
        return class_of(kind).model_validate(spec), warnings
    except ValidationError as error:
        raise SpecError(_in_words(error, kind)) from error


def _in_words(error: ValidationError, kind: str) -> str:
    """Each wrong field with what is wrong."""
    fields = error.errors(include_url=False, include_input=False)[:FIELDS_NAMED]
    return "; ".join(f"{'.'.join(map(str, (kind, *x['loc'])))}: {x['msg']}" for x in fields)


def upgrade(stored: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """JSON of a stored spec in today's fields and bounds, and warnings of what that changed."""
    spec, kind = deepcopy(stored), stored.get("kind", "")
    return spec, class_of(kind).upgrade(spec) if kind in CLASSES else []


def load_entry(spec: Spec) -> Callable[[Spec, Run], None]:
    """The function that carries out a spec; imports its method and, with it, torch."""
    return _named(spec.entry)


def load_serving(kind: str) -> Callable[[ArtifactRef, Run], Answerer]:
    """The function that loads a net to answer for a kind; imports its method and torch."""
    return _named(class_of(kind).serving)


def class_of(kind: str) -> type[Spec]:
    """The class of a kind's spec; imports the specs of its method alone."""
    return _named(CLASSES[kind])


def _named(name: str) -> Any:
    module, function = name.split(":")
    return getattr(import_module(module), function)
