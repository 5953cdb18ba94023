"""Which function grades a map for which grader of a spec."""

from collections.abc import Callable, Sequence
from typing import Any

from models.saliency.graders.curves import grade_pixel_curve, grade_region_curve
from models.saliency.graders.faithfulness import correlation, infidelity, monotonicity
from models.saliency.graders.grade import Grade, GradedMap
from models.saliency.graders.information import grade_information
from models.saliency.graders.localisation import localise
from models.saliency.graders.randomisation import randomisation
from models.saliency.graders.road import grade_road
from models.saliency.graders.robustness import robustness
from models.saliency.graders.simplicity import simplicity
from models.saliency.spec import graders
from models.saliency.spec.simplicity import InformationCurve, Simplicity

GRADERS: dict[type, Callable[[Any, GradedMap], Grade]] = {
    graders.Curve: grade_pixel_curve,
    graders.RegionCurve: grade_region_curve,
    graders.Road: grade_road,
    graders.Infidelity: lambda part, m: Grade(infidelity(part, m.values, m.case, m.k)),
    graders.Correlation: lambda part, m: Grade(
        correlation(part, m.values, m.baseline_image(part.replaced_by), m.case, m.k)
    ),
    graders.Monotonicity: lambda part, m: Grade(monotonicity(part, m.values, m.space, m.case, m.k)),
    graders.Localisation: lambda part, m: Grade(localise(part, m)),
    Simplicity: lambda part, m: Grade(simplicity(part, m.values)),
    InformationCurve: grade_information,
    graders.Robustness: lambda part, m: Grade(robustness(part, m)),
    graders.Randomisation: lambda part, m: Grade(randomisation(part, m)),
}


def grade(part: graders.Metric, graded: GradedMap) -> Grade:
    """Grade a map by the grader of a spec.

    Raises:
        SpecError: if the grader cannot be used with this net.
    """
    return GRADERS[type(part)](part, graded)


def grader_labels(parts: Sequence[graders.Metric]) -> list[str]:
    """A name for each grader: its id and baseline, numbered from 1 where that is not unique."""
    names = [_label(part) for part in parts]
    return [
        name if names.count(name) == 1 else f"{name}-{names[: index + 1].count(name)}"
        for index, name in enumerate(names)
    ]


def _label(part: graders.Metric) -> str:
    replaced_by = getattr(part, "replaced_by", None)
    return part.id if replaced_by is None else f"{part.id}@{replaced_by.id}"
