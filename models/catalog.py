"""Every kind of job: the union of the specs, and the way from a spec to its code."""

from collections.abc import Callable
from importlib import import_module
from typing import Annotated, get_args

from pydantic import Field

from models.core.run import Run
from models.core.spec import Spec
from models.dynamic_downsampling.spec import DynamicDownsamplingPlan, DynamicDownsamplingTrain
from models.freetickets.spec import FreeTicketsTrain
from models.lcw.spec import LcwSample, LcwTrain
from models.saliency.spec import SaliencyMap
from models.saliency.spec_grade import SaliencyEvaluate, SaliencySweep
from models.selective_convolution.spec import SelectiveConvolutionTrain
from models.terrain.spec import TerrainCompare, TerrainDownsample, TerrainSimulate
from models.terrain.train_spec import TerrainTrain

JobSpec = Annotated[
    DynamicDownsamplingTrain
    | DynamicDownsamplingPlan
    | SelectiveConvolutionTrain
    | SaliencyMap
    | SaliencyEvaluate
    | SaliencySweep
    | TerrainTrain
    | TerrainDownsample
    | TerrainSimulate
    | TerrainCompare
    | FreeTicketsTrain
    | LcwTrain
    | LcwSample,
    Field(discriminator="kind"),
]


def kinds() -> dict[str, type[Spec]]:
    """Spec classes by kind, in the order of the union."""
    classes: tuple[type[Spec], ...] = get_args(get_args(JobSpec)[0])
    return {get_args(spec.model_fields["kind"].annotation)[0]: spec for spec in classes}


def load_entry(spec: Spec) -> Callable[[Spec, Run], None]:
    """The function that carries out a spec; imports its method and, with it, torch."""
    module, function = spec.entry.split(":")
    return getattr(import_module(module), function)
