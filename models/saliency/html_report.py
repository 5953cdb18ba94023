"""The report of a sweep as one self-contained HTML file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from models.core import reports
from models.saliency import references
from models.saliency.analysis import lower_is_better
from models.saliency.figures.maps import describe
from models.saliency.graders.registry import grader_labels
from models.saliency.results import EvaluationResults
from models.saliency.spec.evaluate import SaliencySweep
from models.saliency.spec.fields import labels

TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"
CHANGES = {"baseline": "with the baseline", "hyper-parameter": "between its variants"}


class Section(NamedTuple):
    """A table of the report; a cell is a text, or a text with its CSS class."""

    title: str
    note: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]


def write(
    path: Path,
    spec: SaliencySweep,
    score: str,
    results: EvaluationResults,
    report: dict[str, Any],
    pictures: Sequence[Path],
) -> None:
    """Write the report with embedded pictures and no external resources.

    Args:
        path: of the HTML file.
        spec: of the sweep.
        score: what the score is called.
        results: its maps and grades.
        report: contents of ``sweep.json``.
        pictures: PNG files to embed.
    """
    page = reports.render(
        TEMPLATE,
        results=results,
        score=score,
        design=report["design"],
        sentences=[sentence(effect) for effect in report["effects"]],
        sections=sections(spec, results, report),
        sources=[references.listed(key) for key in references.cited(spec)],
        pictures=pictures,
    )
    path.write_text(page)


def sections(
    spec: SaliencySweep, results: EvaluationResults, report: dict[str, Any]
) -> list[Section]:
    """The tables of the report, in their order."""
    return [
        _origin(spec, report),
        _images(results),
        _parameters(spec),
        _baselines(results),
        _effects(report),
        _noise(report),
        _graders(report),
        _winners(report),
        _grades(report),
    ]


def sentence(effect: dict[str, Any]) -> str:
    """A comparison in words, with its numbers; says why where there is no test."""
    name, change = " and ".join(effect["methods"]), CHANGES[effect["factor"]]
    numbers = (
        f"divergence {span(effect['effect'])} against {span(effect['floor'])} from noise, "
        f"difference {span(effect['difference'])}"
    )
    if effect["finding"] is None:
        return f"{name}: not tested ({effect['reason']}). Maps {change}: {numbers}."
    tested = f"{numbers}; d {number(effect['effect_size'])}, corrected p {effect['p_holm']:.2g}"
    if effect["finding"]:
        return f"{name}: maps change {change} by more than noise: {tested}."
    return f"{name}: no change of maps {change} beyond noise was found: {tested}."


def number(value: float | None) -> str:
    """Three decimals, or a dash."""
    return "-" if value is None else f"{value:.3f}"


def span(numbers: dict[str, Any]) -> str:
    """A mean with its interval, if it has one."""
    if numbers["interval"] is None:
        return number(numbers["mean"])
    low, high = numbers["interval"]
    return f"{number(numbers['mean'])} ({number(low)} to {number(high)})"


def _images(results: EvaluationResults) -> Section:
    rows = [
        (image, target["class"], target["name"], number(target["score"]))
        for image, described in results.images.items()
        for target in described["targets"]
    ]
    return Section("Images", "", ("image", "class", "name", "score"), rows)


def _origin(spec: SaliencySweep, report: dict[str, Any]) -> Section:
    """What a reader needs to repeat the job."""
    data = {(image.dataset, image.split, image.sha256) for image in spec.each_image}
    rows = [
        ("net", ", ".join(f"{key} {value}" for key, value in report["model"].items())),
        ("its tensors, SHA-256", report["net_sha256"]),
        *(
            (f"data: {name}, {split}", f"SHA-256 {sha256}" if sha256 else "built in")
            for name, split, sha256 in sorted(data, key=str)
        ),
        ("score", report["score"]),
        ("seeds", ", ".join(map(str, report["design"]["seeds"]))),
        ("precision", spec.precision),
        *((name, value) for name, value in report["versions"].items() if value is not None),
    ]
    cells = [(name, {"text": value, "style": "words"}) for name, value in rows]
    return Section("Net, data and software", "", ("", ""), cells)


def _parameters(spec: SaliencySweep) -> Section:
    parts = [
        *zip(labels(spec.methods), map(describe, spec.methods), strict=True),
        *zip(labels(spec.baselines), map(_described, spec.baselines), strict=True),
        *zip(grader_labels(spec.graders), map(_described, spec.graders), strict=True),
    ]
    rows = [(name, {"text": text, "style": "words"}) for name, text in parts]
    return Section("Methods, baselines and graders", "", ("name", "parameters"), rows)


def _described(part: Any) -> str:
    """Every field of a baseline or grader, defaults included."""
    fields = part.model_dump(exclude={"id"}, exclude_none=True)
    fields |= {"baseline": fields["baseline"]["id"]} if "baseline" in fields else {}
    return ", ".join(f"{key} {value}" for key, value in fields.items()) or "no parameters"


def _baselines(results: EvaluationResults) -> Section:
    rows = [
        (
            image,
            name,
            number(numbers["score"][0]),
            number(numbers["max_probability"]),
            numbers.get("top_name") or "-",  # absent in checkpoints of earlier releases
            number(numbers["entropy"]),
            number(numbers["path_area"][0]),
        )
        for image, described in results.images.items()
        for name, numbers in described["baselines"].items()
    ]
    head = ("image", "baseline", "score of the explained class", "largest probability",
            "of the class", "entropy (nats)", "area of the path to the image")  # fmt: skip
    note = "A neutral baseline gives no class, explained or not, a probability far above chance."
    return Section("Impact of baselines alone", note, head, rows)


def _effects(findings: dict[str, Any]) -> Section:
    rows = []
    for effect in findings["effects"]:
        verdict = {None: "not tested", True: "yes", False: "no"}[effect["finding"]]
        columns = ("effect", "floor", "difference", "corrected", "same_seed")
        rows.append(
            (
                f"{effect['factor']} of {', '.join(effect['methods'])}",
                *(span(effect[name]) for name in columns),
                number(effect["effect_size"]),
                "-" if effect["p_holm"] is None else f"{effect['p_holm']:.2g}",
                {"text": verdict, "style": "best" if effect["finding"] else "none"},
            )
        )
    head = ("comparison", "effect", "noise", "difference", "without noise", "same seed", "d",
            "corrected p", "finding")  # fmt: skip
    note = "Divergences as means over images. A finding: the difference is above 0, corrected p < "
    return Section("Effects of baselines and hyper-parameters", note + "0.05.", head, rows)


def _noise(findings: dict[str, Any]) -> Section:
    rows = [(method, span(numbers)) for method, numbers in findings["noise"].items()]
    note = "Maps that differ in the seed alone, by random method, all baselines together."
    return Section("Noise of random maps", note, ("method", "divergence"), rows)


def _graders(findings: dict[str, Any]) -> Section:
    alpha, beaten = findings["grader_reliability"], findings["controls_not_beaten"]
    names = sorted({name for rows in beaten.values() for name in rows})
    rows = []
    for grader in alpha:
        own = beaten.get(grader, {})
        shares = (span(own[name]) if name in own else "-" for name in names)
        rows.append((grader, span(alpha[grader]), *shares))
    head = ("grader", "Krippendorff's alpha over images", *(f"not better than {n}" for n in names))
    note = "Share of methods and baselines graded no better than a control, each draw by itself."
    return Section("Graders", note, head, rows)


def _winners(findings: dict[str, Any]) -> Section:
    rows = [(name, span(share)) for name, share in findings["winner_changes_with_baseline"].items()]
    note = "Share of images whose best method, controls aside, changes with the grader's baseline."
    return Section("Best method by grader's baseline", note, ("grader", "share"), rows)


def _grades(findings: dict[str, Any]) -> Section:
    """Mean grades by method and baseline (rows) and grader (columns)."""
    means = {
        (row["method"], row["baseline"], row["grader"]): row["mean"]
        for row in findings["interaction"]
    }
    candidates = list(dict.fromkeys((method, baseline) for method, baseline, _ in means))
    graders = list(dict.fromkeys(grader for _, _, grader in means))
    best = {}
    for grader in graders:
        known = [value for (*_, name), value in means.items() if name == grader]
        best[grader] = (min if lower_is_better(grader) else max)(known)
    rows = []
    for candidate in candidates:
        values = [(means.get((*candidate, grader)), best[grader]) for grader in graders]
        rows.append((*candidate, *(_cell(value, value == top) for value, top in values)))
    heads = (
        f"{name} ({'less' if lower_is_better(name) else 'more'} is better)" for name in graders
    )
    note = "By method and baseline of the map; the best grade of a column is bold."
    return Section("Mean grades", note, ("method", "baseline of the map", *heads), rows)


def _cell(value: float | None, best: bool) -> Any:
    return {"text": number(value), "style": "best"} if best else number(value)
