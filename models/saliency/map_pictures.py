"""Pictures of the maps of one method and class, and how the classes of an image are told."""

from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from models.core.run import Run
from models.saliency.case_builder import CaseBuilder
from models.saliency.figures.maps import Panel, draw, style
from models.saliency.methods.case import Case
from models.saliency.spec.fields import labels
from models.saliency.spec.map import SaliencyMap
from models.saliency.spec.methods import NO_BASELINE


class DrawnMaps(NamedTuple):
    """Which maps of an image are drawn side by side.

    Attributes:
        image: name of the image.
        method: label of the method.
        target: the class, as :func:`describe_targets` tells it.
        panels: the maps to compare, by baseline.
    """

    image: str
    method: str
    target: dict[str, Any]
    panels: list[Panel]


def describe_targets(
    cases: CaseBuilder, case: Case, outputs: Float[Tensor, "classes"]
) -> list[dict[str, Any]]:
    """Class, name, score and probability (null where there is none) of each target.

    Args:
        cases: tell the names of the classes.
        case: the image.
        outputs: of the net for it.
    """
    probabilities = case.scorer.probabilities(outputs[None])
    p = None if probabilities is None else probabilities[0]
    return [
        {
            "class": target,
            "name": cases.subject.classes[target],
            "score": score,
            "probability": None if p is None else p[target].item(),
        }
        for target, score in zip(case.targets.tolist(), case.full.tolist(), strict=True)
    ]


def draw_maps(
    run: Run, spec: SaliencyMap, cases: CaseBuilder, case: Case, shown: DrawnMaps
) -> None:
    """Leave the picture of one method and class.

    Raises:
        StoppedError: if a stop was requested; drawing takes as long as many rows.
    """
    run.check_stop()
    method = dict(zip(labels(spec.methods), spec.methods, strict=True))[shown.method]
    name = f"saliency/{shown.image}/{shown.method}-class{shown.target['class']}.png"
    (run.dir / name).parent.mkdir(parents=True, exist_ok=True)
    pixels = case.x if case.pixels is None else case.pixels
    draw(
        run.dir / name,
        pixels.permute(1, 2, 0).cpu().numpy(),
        shown.panels,
        _title(shown.target),
        style(method, cases.score_word),
        spec.overlay,
    )
    run.artifact(name, role="image", image=shown.image, method=shown.method)


def panel_title(baseline: str) -> str:
    """What is written above the map of a baseline."""
    return "no baseline" if baseline == NO_BASELINE else baseline


def _title(target: dict[str, Any]) -> str:
    """Name of a class with its probability, or with the output where there is none."""
    if target["probability"] is None:
        return f"{target['name']}, output {target['score']:.3g}"
    return f"{target['name']}, p\u00a0=\u00a0{target['probability']:.2f}"
