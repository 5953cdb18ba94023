"""Every kind of job: the union of the specs."""

import json
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field

from models.classify.spec import ClassifyPredict
from models.core.spec import Spec
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
