"""Figures of what is learned of faces, from the errors of its windows."""

import json
from pathlib import Path

import numpy as np

from tests.bench.terrain_learned_scenes import SITES, TRAINED, UNSEEN, overlap

DRAWS = 500


def middle(rows, by, waters):
    """Median error over that of the untrained subgrid."""
    return float(np.median(ratios(rows, by, waters)[:, 0]))


def resampled(blocks):
    """90 % interval of the median ratio, windows drawn whole."""
    rng, count = np.random.default_rng(0), len(blocks)
    drawn = ([blocks[k] for k in rng.integers(count, size=count)] for _ in range(DRAWS))
    medians = [np.median(np.concatenate(some)[:, 0]) for some in drawn]
    return [float(q) for q in np.quantile(medians, (0.05, 0.95))]


def ratios(rows, by, waters):
    """Errors over those of the untrained subgrid and over the best of it and mean pooling."""
    out = []
    for row in rows:
        for water in waters:
            errors = row["errors"][water]
            untrained = max(errors["untrained"]["mae_wet_m"], 1e-5)
            best = max(min(untrained, errors["mean"]["mae_wet_m"]), 1e-5)
            got = errors[by]["mae_wet_m"]
            out.append((got / untrained, got / best, got / max(errors["mean"]["mae_wet_m"], 1e-5)))
    return np.array(out)


def summary(folder: Path, factor: int) -> dict:
    paths = sorted(folder.glob(f"judge-{factor}-*.json"))
    rows = [json.loads(path.read_text()) for path in paths]
    sites = sorted({row["site"] for row in rows})
    size_at = 2 if factor == 4 else 1
    result = {"overlap": {s: overlap(s, SITES[s][size_at]) for s in sites}}
    for by in rows[0]["errors"]["rain"]:
        for label, waters in (("trained waters", TRAINED), ("unseen waters", UNSEEN)):
            r = ratios(rows, by, waters)
            draws = resampled([ratios([row], by, waters) for row in rows])
            of_site = {s: [row for row in rows if row["site"] == s] for s in sites}
            result.setdefault(by, {})[label] = {
                "over_untrained_median": float(np.median(r[:, 0])),
                "interval_90": draws,
                "over_untrained_mean_log": float(np.exp(np.log(r[:, 0].clip(1e-3)).mean())),
                "over_best_median": float(np.median(r[:, 1])),
                "over_mean_median": float(np.median(r[:, 2])),
                "half_of_best": float((r[:, 1] <= 0.5).mean()),
                "worse_by_5": float((r[:, 0] > 1.05).mean()),
                "sites": {s: middle(some, by, waters) for s, some in of_site.items()},
                "waters": {w: middle(rows, by, [w]) for w in waters},
            }
    return result
