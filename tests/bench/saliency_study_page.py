"""The page of the study of ``saliency_study``, from its JSON.

python -m tests.bench.saliency_study_page tests/bench/results/FILE.json docs/saliency_study.md
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.saliency.html_report import sentence, span

HEAD = """# Do baselines and hyper-parameters change saliency maps by more than noise?

Made by `tests.bench.saliency_study_page` from `tests/bench/results/{file}`; terms and equation 18
are those of the [README](../models/saliency/README.md), section 3. Machine: {machine}.

**Question.** Brunke, Agrawal and George (2020) report that baselines thought neutral change maps,
that hyper-parameters do, and that methods and graders contradict each other. Is what one sees
more than the noise of the methods?

**Data.** {count} photographs that Python packages carry (20 of ImageNet's in foolbox, the others
of scikit-image, scikit-learn, matplotlib, gradio, dianna, imgaug, insightface, mahotas and
ultralytics), shorter side at most 400 pixels. The run went through them in alphabetic order until
its time on the GPU was up; the tables say how many each net has.

**Nets.** EfficientNet-Lite0 (input 224), -Lite1 (240) and -Lite2 (260) with their published
weights; convolutions of Lite1 and Lite2 rounded to half precision. No package at hand carries
weights of a vision transformer, so there is none.

**Design, fixed in the spec before the run.** Hypotheses: for each method, that its maps change
with the baseline (black, gray, blur); for the two windows of occlusion and the two grids of RISE,
that maps change between them. Seeds: {seeds}, for every random map and image anew; the random
control has {draws} draws an image. Left out of all statistics: photographs whose top class has a
probability below {least}. Explained: the top class. p is corrected for the {comparisons}
comparisons of a net (Holm), not across nets.

RISE has {masks} masks a map, which is few: its noise is large, and what it hides is the question.
Occlusion and ablation are not random: whatever differs is the factor's doing, p says no more than
that it is not 0, and the interval is the answer.
"""
CONTROLS = ("random", "edge")


def page(answer: dict[str, Any], file: str) -> Iterator[str]:
    """The lines of the page."""
    spec, first = answer["spec"], next(iter(answer["nets"].values()))
    masks = next(method["masks"] for method in spec["methods"] if "masks" in method)
    yield HEAD.format(
        file=file,
        machine=answer["machine"]["device"],
        count=len(answer["photographs"]),
        seeds=len(spec["seeds"]),
        draws=spec["control_draws"],
        least=spec["least_score"],
        comparisons=first["design"]["comparisons"],
        masks=masks,
    )
    for net, findings in answer["nets"].items():
        yield from of_net(net, findings, answer["photographs"])


def of_net(net: str, findings: dict[str, Any], photographs: list[str]) -> Iterator[str]:
    """The section of a net."""
    design = findings["design"]
    names = [Path(photographs[int(name[:3])]).stem for name in design["left_out"]]
    left = f"; left out: {', '.join(names)}" if names else ""
    yield f"## EfficientNet-{net.capitalize()}: {design['images']} photographs\n"
    yield f"{findings['rows']:,} rows through the net{left}.\n"
    yield from table(
        ("comparison", "effect", "noise", "difference", "without noise", "same seed", "d", "p"),
        (
            (
                f"{effect['factor']} of {', '.join(effect['methods'])}",
                *(span(effect[name]) for name in
                  ("effect", "floor", "difference", "corrected", "same_seed")),
                f"{effect['effect_size']:.2f}",
                f"{effect['p_holm']:.1g}",
            )
            for effect in findings["effects"]
        ),
    )  # fmt: skip
    yield from (f"- {sentence(effect)}" for effect in findings["effects"])
    yield "\nBaselines alone:\n"
    yield from table(
        ("baseline", "largest p of the explained class", "of any class", "photographs above limit"),
        (
            (
                name,
                f"{numbers['largest_of_explained_class']:.3f}",
                f"{numbers['largest_of_any_class']:.3f}",
                f"{numbers['images_above_limit']} of {numbers['images']}",
            )
            for name, numbers in findings["baselines"].items()
        ),
    )
    yield from graders(findings)


def graders(findings: dict[str, Any]) -> Iterator[str]:
    """How graders agree with each other, with themselves and against controls."""
    agreement, beaten = findings["grader_agreement"], findings["controls_not_beaten"]
    yield "Kendall's tau between the rankings by two graders:\n"
    yield from table(
        ("", *agreement["names"]),
        (
            (name, *(span({"mean": mean, "interval": interval}) for mean, interval in zip(
                agreement["kendall"][i], agreement["interval"][i], strict=True)))
            for i, name in enumerate(agreement["names"])
        ),
    )  # fmt: skip
    yield from table(
        ("grader", "Krippendorff's alpha", *(f"not better than {name}" for name in CONTROLS)),
        (
            (name, span(alpha), *(span(beaten[name][control]) for control in CONTROLS))
            for name, alpha in findings["grader_reliability"].items()
        ),
    )
    for grader, share in findings["winner_changes_with_baseline"].items():
        yield (
            f"The best method changes with the baseline of {grader} on a share of {span(share)} of "
            "the photographs.\n"
        )


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    """A Markdown table."""
    yield "| " + " | ".join(head) + " |"
    yield "| " + " | ".join("---" for _ in head) + " |"
    yield from ("| " + " | ".join(row) + " |" for row in rows)
    yield ""


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    target.write_text("\n".join(page(json.loads(source.read_text()), source.name)) + "\n")


if __name__ == "__main__":
    main()
