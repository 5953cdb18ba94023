"""Every kind of job: the union of the specs, and the code of each spec."""

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field, TypeAdapter

from models.classify.spec import ClassifyPredict
from models.core.run import Run
from models.core.serving import Answerer
from models.core.spec import ArtifactRef, Spec
from models.dynamic_downsampling.spec import DynamicDownsamplingPlan, DynamicDownsamplingTrain
from models.freetickets.spec import FreeTicketsTrain
from models.lcw.spec import LcwSample, LcwTrain
from models.saliency.spec.evaluate import SaliencyEvaluate, SaliencySweep
from models.saliency.spec.map import SaliencyMap
from models.saliency.spec.roar import SaliencyRoar
from models.selective_convolution.spec import SelectiveConvolutionTrain
from models.terrain.spec.floods import TerrainCompare, TerrainDownsample, TerrainSimulate
from models.terrain.spec.train import TerrainTrain

JobSpec = Annotated[
    DynamicDownsamplingTrain
    | DynamicDownsamplingPlan
    | SelectiveConvolutionTrain
    | SaliencyMap
    | SaliencyEvaluate
    | SaliencySweep
    | SaliencyRoar
    | TerrainTrain
    | TerrainDownsample
    | TerrainSimulate
    | TerrainCompare
    | FreeTicketsTrain
    | LcwTrain
    | LcwSample
    | ClassifyPredict,
    Field(discriminator="kind"),
]


def kinds() -> dict[str, type[Spec]]:
    """Spec classes by kind, in the order of the union."""
    classes: tuple[type[Spec], ...] = get_args(get_args(JobSpec)[0])
    return {get_args(spec.model_fields["kind"].annotation)[0]: spec for spec in classes}


@cache
def _shipped() -> dict[str, dict[str, list[list[float]]]]:
    return json.loads((Path(__file__).parent / "timings.json").read_text())["seconds"]


def shipped_timings(kind: str, unit: str) -> Sequence[tuple[float, float]]:
    """Work and wall seconds of runs of a kind on two CPU cores, measured before the release.

    ``tests/bench/timings.py`` writes them; none for a kind that it has not run.
    """
    return [(work, seconds) for work, seconds in _shipped().get(kind, {}).get(unit, ())]


def upgrade(stored: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """JSON of a stored spec in today's fields and bounds, and warnings of what that changed."""
    spec = deepcopy(stored)
    kind = kinds().get(spec.get("kind", ""))
    return spec, [] if kind is None else kind.upgrade(spec)


def load_stored(stored: dict[str, Any]) -> tuple[Any, list[str]]:
    """A spec that this or an earlier release accepted, and warnings of what had to change.

    Raises:
        ValidationError: if it is no spec.
    """
    spec, warnings = upgrade(stored)
    return TypeAdapter(JobSpec).validate_python(spec), warnings


def load_entry(spec: Spec) -> Callable[[Spec, Run], None]:
    """The function that carries out a spec; imports its method and, with it, torch."""
    return _named(spec.entry)


def load_serving(kind: str) -> Callable[[ArtifactRef, Run], Answerer]:
    """The function that loads a net to answer for a kind; imports its method and torch."""
    return _named(kinds()[kind].serving)


def _named(name: str) -> Any:
    module, function = name.split(":")
    return getattr(import_module(module), function)
