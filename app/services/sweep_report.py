"""The report of a sweep: a page, a table, and the figure in it, all without scripts.

The figure has an axis for each parameter and one for the objective; a line is a trial. Importance
is eta squared: the share of the variance of the trials' means that lies between groups of equal
values (of quarters of the trials for parameters of more than six values). It is too large where
trials are few, and says nothing of parameters that act together.
"""

import csv
import io
import json
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from jinja2 import Environment

from app.schemas.sweeps import SweepDetail, TrialRead

MEDIA = {"html": "text/html", "csv": "text/csv", "svg": "image/svg+xml"}
WIDTH, HEIGHT, MARGIN, TOP = 840, 340, 70, 40
GROUPS = 4  # of a parameter with many values
FEW = 6


class Axis(NamedTuple):
    """A vertical axis: where it stands, and its labels at heights from 0 to 1."""

    name: str
    x: float
    labels: list[tuple[float, str]]
    heights: list[float]  # of the trials, in their order


def importance(trials: Sequence[TrialRead]) -> dict[str, float | None]:
    """Eta squared of each parameter; None where fewer than three trials or no variance tell."""
    whole = [each for each in trials if each.rank is not None and each.objective is not None]
    return {name: _eta(whole, name) for name in _names(trials)}


def _names(trials: Sequence[TrialRead]) -> list[str]:
    return list(dict.fromkeys(name for each in trials for name in each.values))


def _eta(trials: Sequence[TrialRead], name: str) -> float | None:
    pairs = [(t.values[name], t.objective.mean) for t in trials if t.objective and name in t.values]
    means = [mean for _, mean in pairs]
    if len(pairs) < 3 or statistics.pvariance(means) == 0:
        return None
    grand = statistics.fmean(means)
    groups = _groups(pairs)
    between = sum(len(g) * (statistics.fmean(g) - grand) ** 2 for g in groups)
    return between / sum((mean - grand) ** 2 for mean in means)


def _groups(pairs: Sequence[tuple[Any, float]]) -> list[list[float]]:
    by_value: dict[str, list[float]] = {}
    for value, mean in pairs:
        by_value.setdefault(json.dumps(value), []).append(mean)
    if len(by_value) <= FEW or not all(isinstance(value, int | float) for value, _ in pairs):
        return [*by_value.values()]
    ordered = [mean for _, mean in sorted(pairs)]
    size = -(-len(ordered) // GROUPS)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


# -- table -----------------------------------------------------------------------------------


def write_csv(sweep: SweepDetail) -> str:
    """A row a job: its trial, rank, values, seed, status and objective."""
    names = _names(sweep.trials)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["trial", "baseline", "rank", *names, "seed", "job", "status", sweep.metric])
    for trial in sweep.trials:
        values = [_shown(trial.values[name]) if name in trial.values else "" for name in names]
        for job in trial.jobs:
            start = [trial.trial, int(trial.baseline), trial.rank, *values]
            writer.writerow([*start, job.seed, job.id, job.status.value, job.value])
    return file.getvalue()


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# -- figure ----------------------------------------------------------------------------------


def write_svg(sweep: SweepDetail) -> str:
    """Parallel coordinates of the trials that have an objective."""
    trials = [each for each in sweep.trials if each.objective is not None]
    axes = _axes(trials, _names(sweep.trials), sweep)
    lines = [
        (
            " ".join(f"{axis.x:.1f},{_y(axis.heights[n]):.1f}" for axis in axes),
            "#c2410c" if trial.baseline else "#1d4ed8",
            1.0 if trial.rank == 1 or trial.baseline else 0.3,
            f"trial {trial.trial}: {json.dumps(trial.values)}",
        )
        for n, trial in enumerate(trials)
    ]
    return _render(SVG, axes=axes, lines=lines, y=_y, width=WIDTH, height=HEIGHT, top=TOP)


def _y(height: float) -> float:
    return HEIGHT - TOP - height * (HEIGHT - 2 * TOP)


def _axes(trials: Sequence[TrialRead], names: Sequence[str], sweep: SweepDetail) -> list[Axis]:
    columns = {name: [each.values.get(name) for each in trials] for name in names}
    columns[sweep.metric] = [each.objective.mean for each in trials if each.objective]
    step = (WIDTH - 2 * MARGIN) / max(len(columns) - 1, 1)
    placed = enumerate(columns.items())
    return [Axis(name, MARGIN + n * step, *_scale(column)) for n, (name, column) in placed]


def _scale(column: Sequence[Any]) -> tuple[list[tuple[float, str]], list[float]]:
    """Labels and heights: numbers by size, anything else at even distances in its order."""
    numbers = [x for x in column if isinstance(x, int | float) and not isinstance(x, bool)]
    if column and len(numbers) == len(column):
        low, span = min(numbers), (max(numbers) - min(numbers)) or 1
        labels = [(0.0, f"{low:.4g}"), (1.0, f"{max(numbers):.4g}")]
        return labels, [(x - low) / span for x in numbers]
    texts = ["as in the spec" if x is None else _shown(x)[:24] for x in column]
    places = {text: n for n, text in enumerate(dict.fromkeys(texts))}
    top = max(len(places) - 1, 1)
    return [(n / top, text) for text, n in places.items()], [places[text] / top for text in texts]


# -- page ------------------------------------------------------------------------------------


def write_html(sweep: SweepDetail) -> str:
    """Everything on one page: it needs nothing else, also without the service."""
    return _render(
        PAGE,
        sweep=sweep,
        names=_names(sweep.trials),
        figure=write_svg(sweep),
        importance=importance(sweep.trials),
        shown=_shown,
        seeds=len(sweep.request.get("seeds", [0])),
    )


def _render(source: str, **values: Any) -> str:
    return ENVIRONMENT.from_string(source).render(**values)


def _mean(mean: Any) -> str:
    if mean is None:
        return ""
    interval = f" [{mean.interval[0]:.4g}, {mean.interval[1]:.4g}]" if mean.interval else ""
    return f"{mean.mean:.4g}{interval}"


ENVIRONMENT = Environment(autoescape=True)
ENVIRONMENT.filters["mean"] = _mean
SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{ width }} {{ height }}" role="img"
 font-family="sans-serif" font-size="11"><title>Trials: parameters and objective</title>
{% for points, colour, opacity, words in lines %}<polyline points="{{ points }}" fill="none"
 stroke="{{ colour }}" stroke-opacity="{{ opacity }}" stroke-width="1.5"><title>{{ words }}</title></polyline>
{% endfor %}{% for axis in axes %}<line x1="{{ axis.x }}" x2="{{ axis.x }}" y1="{{ y(0) }}" y2="{{ y(1) }}" stroke="#333"/>
<text x="{{ axis.x }}" y="{{ top - 14 }}" text-anchor="middle" font-weight="bold">{{ axis.name }}</text>
{% for height, text in axis.labels %}<text x="{{ axis.x + 4 }}" y="{{ y(height) + 4 }}">{{ text }}</text>
{% endfor %}{% endfor %}</svg>
"""  # noqa: E501
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{{ sweep.name or sweep.id }}</title>
<style>body{font:15px sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}table{border-collapse:collapse}
td,th{padding:.2rem .7rem;border-bottom:1px solid #ccc;text-align:left}</style></head><body>
<h1>{{ sweep.name or sweep.id }}</h1>
<p>{{ sweep.kind }}, {{ sweep.status }}: {{ sweep.jobs.succeeded }} of {{ sweep.jobs.total }} jobs succeeded,
{{ sweep.jobs.failed }} failed, {{ sweep.jobs.cancelled }} cancelled. Ranked by {{ sweep.metric }}
({{ "largest" if sweep.goal == "max" else "smallest" }} first), means over {{ seeds }} seeds with 95 % intervals
(Student's t){% if sweep.trials | selectattr("baseline") | list %}; differences to the baseline seed by seed{% endif %}.</p>
{{ figure | safe }}
<h2>Trials</h2><table><tr><th>Rank</th><th>Trial</th>{% for name in names %}<th>{{ name }}</th>{% endfor %}
<th>{{ sweep.metric }}</th><th>To the baseline</th><th>Seeds</th></tr>
{% for t in sweep.trials %}<tr><td>{{ t.rank or "" }}</td><td>{{ t.trial }}{{ " (baseline)" if t.baseline }}</td>
{% for name in names %}<td>{{ shown(t.values[name]) if name in t.values else "as in the spec" }}</td>{% endfor %}
<td>{{ t.objective | mean }}</td><td>{{ t.difference | mean }}</td>
<td>{{ t.objective.count if t.objective else 0 }}</td></tr>{% endfor %}</table>
<h2>Importance</h2><p>Share of the variance of the trials' means between groups of equal values (eta squared). It is
too large where trials are few.</p><table>{% for name, share in importance.items() %}<tr><td>{{ name }}</td>
<td>{{ "%.2f" | format(share) if share is not none else "too few trials" }}</td></tr>{% endfor %}</table>
</body></html>
"""  # noqa: E501
WRITERS = {"html": write_html, "csv": write_csv, "svg": write_svg}
