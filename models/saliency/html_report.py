"""The report of a sweep as one self-contained HTML file."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from models.saliency.analysis import lower_is_better
from models.saliency.figures.maps import SCORES, describe
from models.saliency.results import EvaluationResults
from models.saliency.spec.evaluate import SaliencySweep
from models.saliency.spec.fields import labels

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1100px; padding: 0 1em;
       color: #1b1f24; }
h1 { font-size: 1.6em; } h2 { margin-top: 2em; border-bottom: 1px solid #d0d7de; }
table { border-collapse: collapse; margin: 1em 0; font-size: 13px; }
th, td { padding: 3px 10px; border-bottom: 1px solid #e4e8ec; text-align: right; }
th:first-child, td:first-child { text-align: left; } th { background: #f4f6f8; }
img { max-width: 100%; height: auto; margin: 1em 0; } .note { color: #57606a; }
.words { text-align: left; } .below { color: #8c959f; }
"""


def write(
    path: Path,
    spec: SaliencySweep,
    results: EvaluationResults,
    findings: dict[str, Any],
    pictures: Sequence[Path],
) -> None:
    """Write the report with embedded pictures and no external resources.

    Args:
        path: of the HTML file.
        spec: of the sweep.
        results: its maps and grades.
        findings: as ``sweep.analyse`` returns them.
        pictures: PNG files to embed.
    """
    parts = [
        "<h1>Saliency sweep</h1>",
        f"<p>{len(results.images)} images, {len(results.maps)} maps, {results.rows:,} rows through "
        f"the net; score: {SCORES[spec.score]}.</p>",
        *(f'<p class="note">Warning: {escape(text)}</p>' for text in results.warnings),
        "<h2>Images</h2>",
        _images(results),
        "<h2>Methods</h2>",
        _table(
            ("name", "parameters"),
            (
                (name, f'<td class="words">{escape(describe(method))}</td>')
                for name, method in zip(labels(spec.methods), spec.methods, strict=True)
            ),
        ),
        "<h2>Impact of baselines alone</h2>",
        "<p>A neutral baseline has a largest class probability near chance.</p>",
        _baselines(results),
        "<h2>Divergence of maps by factor</h2>",
        "<p>Mean of 1 - Spearman when only one factor changes, with its 95 % interval over images. "
        "The seed gives the noise floor; an interval that reaches it (grey) is no finding. A dash: "
        "this factor did not vary, or the method is not random.</p>",
        _divergence(findings),
        "<h2>Graders</h2>",
        _graders(findings),
        "<h2>Mean grades</h2>",
        "<p>By method and baseline of the map; the best grade of a column is bold. A row shows "
        "whether a map is graded better with its own baseline.</p>",
        _grades(findings),
        "<h2>Pictures</h2>",
        *(_picture(picture) for picture in pictures),
    ]
    body = "\n".join(parts)
    path.write_text(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>Saliency sweep</title><style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """An HTML table; cells are escaped, except those that begin with ``<td``."""
    lines = ["<tr>" + "".join(f"<th>{escape(name)}</th>" for name in head) + "</tr>"]
    for row in rows:
        texts = (str(cell) for cell in row)
        cells = (text if text.startswith("<td") else f"<td>{escape(text)}</td>" for text in texts)
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _images(results: EvaluationResults) -> str:
    rows = [
        (image, target["class"], target["name"], _number(target["score"]))
        for image, described in results.images.items()
        for target in described["targets"]
    ]
    return _table(("image", "class", "name", "score"), rows)


def _grades(findings: dict[str, Any]) -> str:
    """Mean grades by method and baseline (rows) and grader (columns)."""
    means = {
        (row["method"], row["baseline"], row["grader"]): row["mean"]
        for row in findings["interaction"]
    }
    candidates = list(dict.fromkeys((method, baseline) for method, baseline, _ in means))
    graders = list(dict.fromkeys(grader for _, _, grader in means))
    best = {}
    for grader in graders:
        known = [v for (*_, name), v in means.items() if name == grader and v is not None]
        best[grader] = (min if lower_is_better(grader) else max)(known, default=None)
    rows = []
    for candidate in candidates:
        values = [(means.get((*candidate, grader)), best[grader]) for grader in graders]
        rows.append((*candidate, *(_cell(value, value == top) for value, top in values)))
    heads = (
        f"{name} ({'less' if lower_is_better(name) else 'more'} is better)" for name in graders
    )
    return _table(("method", "baseline of the map", *heads), rows)


def _cell(value: float | None, best: bool) -> str:
    text = _number(value)
    return f"<td><b>{text}</b></td>" if best and value is not None else text


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _baselines(results: EvaluationResults) -> str:
    rows = [
        (
            image,
            name,
            _number(numbers["score"][0]),
            _number(numbers["max_probability"]),
            _number(numbers["entropy"]),
            _number(numbers["path_area"][0]),
        )
        for image, described in results.images.items()
        for name, numbers in described["baselines"].items()
    ]
    head = ("image", "baseline", "score of the class", "largest probability", "entropy (nats)",
            "area of the path to the image")  # fmt: skip
    return _table(head, rows)


def _divergence(findings: dict[str, Any]) -> str:
    rows = []
    for method, factors in findings["divergence"].items():
        floor = factors.get("seed", {}).get("mean", 0.0)
        row = [method]
        for name in ("baseline", "hyper-parameter", "seed"):
            numbers = factors.get(name)
            if numbers is None:
                row.append("-")
                continue
            low, high = numbers["interval"] or (numbers["mean"], numbers["mean"])
            text = f"{numbers['mean']:.3f} ({low:.3f} to {high:.3f})"
            below = name != "seed" and low <= floor
            row.append(f'<td class="below">{text}</td>' if below else text)
        rows.append(row)
    return _table(("method", "baseline", "hyper-parameter", "seed (noise floor)"), rows)


def _graders(findings: dict[str, Any]) -> str:
    alpha = findings["grader_reliability"]
    beaten = findings["controls_not_beaten"]
    names = sorted({name for rows in beaten.values() for name in rows})
    rows = [
        (name, _number(alpha[name]), *(_number(beaten.get(name, {}).get(n)) for n in names))
        for name in alpha
    ]
    head = ("grader", "Krippendorff's alpha over images", *(f"not better than {n}" for n in names))
    changes = findings["winner_changes_with_baseline"]
    sentences = "".join(
        f"<p>{escape(name)}: the best method changes with the grader's baseline in "
        f"{share:.0%} of the images.</p>"
        for name, share in changes.items()
    )
    return _table(head, rows) + sentences


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(path.stem)}" src="data:image/png;base64,{data}">'
