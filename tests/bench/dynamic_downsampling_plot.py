"""Picture of accuracy against training time from a result of ``tests.bench.dynamic_downsampling``.

python -m tests.bench.dynamic_downsampling_plot FILE.json FILE.png
"""

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

NAMES = {
    "a": "plain",
    "b": "periodic, input and kernel, shared statistics",
    "c": "periodic, input only",
    "d": "annealed, matched norms",
    "e": "progressive resizing",
    "f": "plain, cut to equal time",
    "g": "cheap first, 4 batches a cheap step",
    "first": "cheap first",
    "ramp": "cheap first, two sizes",
    "first_steps": "cheap first, rate over steps",
}
SHOWN = 0.04  # accuracy below the best that the right panel shows


def mean_curve(runs: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Seconds without the first steps of each kind, and accuracy, both as means over seeds."""
    points = list(zip(*(run["curve"] for run in runs), strict=False))
    waits = [run["warmup_s"] for run in runs]
    seconds = [
        mean(max(0.0, point[0] - wait) for point, wait in zip(each, waits, strict=True))
        for each in points
    ]
    return seconds, [mean(point[1] for point in each) for each in points]


def draw(axes: Axes, runs: dict[str, list[dict[str, Any]]]) -> None:
    """A line for each arm, its end marked."""
    for arm, name in NAMES.items():
        if arm not in runs:
            continue
        seconds, accuracies = mean_curve(runs[arm])
        seeds = f"{len(runs[arm])} seed" + "s" * (len(runs[arm]) > 1)
        final = mean(run["test_accuracy"] for run in runs[arm])  # statistics estimated anew
        label = f"{name}: {final:.1%}, {seconds[-1]:.0f} s ({seeds})"
        (line,) = axes.plot(seconds, accuracies, linewidth=1.3, label=label)
        axes.plot(seconds[-1], accuracies[-1], "o", color=line.get_color(), markersize=5)
    axes.set_xlabel("training time (s), without tests and first steps")
    axes.set_ylabel("test accuracy, mean over seeds")
    axes.grid(alpha=0.3)


def main() -> None:
    """Write the PNG: the whole trainings, and their ends enlarged."""
    contents = json.loads(Path(sys.argv[1]).read_text())
    runs = {arm: list(by_seed.values()) for arm, by_seed in contents["runs"].items()}
    best = max(mean_curve(rows)[1][-1] for rows in runs.values())
    figure = Figure(figsize=(11, 5.4), dpi=100, layout="constrained")
    whole, ends = figure.subplots(1, 2)
    for axes in (whole, ends):
        draw(axes, runs)
    whole.set_xlim(left=0)
    ends.set_xlim(left=0.5 * min(mean_curve(rows)[0][-1] for rows in runs.values()))
    ends.set_ylim(best - SHOWN, best + 0.005)
    figure.legend(
        *whole.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8
    )
    options = contents["options"]
    figure.suptitle(
        f"{options['net']} on JPEG CIFAR-10, {options['epochs']} epochs,"
        f" {contents['device']['device']}",
        fontsize=11,
    )
    figure.savefig(sys.argv[2], metadata={"Software": None})


if __name__ == "__main__":
    main()
