"""README, section 3: effects beside noise of one design, their intervals and tests."""

import itertools
import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from models.core.run import Run
from models.saliency import analysis, effects, estimates
from models.saliency.case_builder import image_seed
from models.saliency.graders.agreement import krippendorff
from models.saliency.net import load
from models.saliency.net.space import Space
from models.saliency.results import EvaluationResults, MapKey
from models.saliency.spec.evaluate import SaliencySweep
from models.saliency.sweep import sweep
from models.stored import load_stored
from tests.models.saliency.saliency_nets import conv_net

IMAGES = 11
FIELDS = {
    "kind": "saliency.sweep",
    "model": {"job": "job_" + "0" * 32, "artifact": "weights.safetensors"},
    "images": [{"dataset": "digits", "index": index} for index in range(IMAGES)],
    "methods": [
        {"id": "occlusion", "window": 8, "stride": 4},
        {"id": "rise", "masks": 32, "grid": 3, "estimator": "slope"},
        {"id": "rise", "masks": 64, "grid": 6, "estimator": "slope"},
        {"id": "random"},
        {"id": "edge"},
    ],
    "baselines": [{"id": "black"}, {"id": "gray"}, {"id": "gaussian_noise"}],
    "graders": [
        {"id": "deletion", "points": 3},
        {"id": "insertion", "points": 3, "baseline": {"id": "black"}},
    ],
    "seeds": [0, 1, 2],
    "control_draws": 4,
    "score": "logit",
    "batch": 32,
    "engine": "plain",
}


def the_sweep(**fields):
    return SaliencySweep.model_validate(FIELDS | fields)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep over images enough for a test."""
    subject = load.Subject(
        conv_net(), list("abcde"), Space([0.5] * 3, [0.25] * 3), (24, 24), 3, 1.0
    )
    folder = tmp_path_factory.mktemp("effects")
    with pytest.MonkeyPatch.context() as patch, (folder / "events.jsonl").open("w") as lines:
        patch.setattr(load, "load_subject", lambda *_: subject)
        patch.setattr("models.saliency.sweep.draw", lambda *_: [])
        sweep(the_sweep(), Run(folder, lines))
    return folder


def recomputed(folder, compared):
    """One comparison from maps.npz alone, with scipy's Spearman and textbook formulas."""
    archive = np.load(folder / "maps.npz", allow_pickle=False)
    entries = json.loads(str(archive["index"]))
    by_image, baselines = {}, ("black", "gray", "gaussian_noise")
    for entry in entries:
        at = by_image.setdefault(entry["image"], {})
        at.setdefault((entry["method"], entry["baseline"]), {})[entry["seed"]] = archive[
            entry["key"]
        ].ravel()
    if compared["factor"] == "baseline":
        (method,) = compared["methods"]
        pairs = [((method, a), (method, b)) for a, b in itertools.combinations(baselines, 2)]
    else:
        pairs = [tuple((method, b) for method in compared["methods"]) for b in baselines]
    rows = []
    for at in by_image.values():
        of_pairs = []
        for a, b in pairs:
            one, other = at[a], at[b]
            both = len(one) > 1 and len(other) > 1
            cross = np.mean(
                [
                    stats.spearmanr(x, y).statistic
                    for s, x in one.items()
                    for t, y in other.items()
                    if not (both and s == t)
                ]
            )
            same = [stats.spearmanr(x, other[s]).statistic for s, x in one.items() if s in other]
            root = np.sqrt(np.prod([max(0, own(maps)) for maps in (one, other)]))
            of_pairs.append((1 - cross, 1 - root, 1 - np.mean(same) if both else np.nan))
        table = np.array(of_pairs)
        same = table[:, 2][~np.isnan(table[:, 2])]
        rows.append((*table[:, :2].mean(0), same.mean() if same.size else np.nan))
    return np.array(rows)


def own(maps):
    """Mean correlation between seeds; 1 for a single map."""
    if len(maps) == 1:
        return 1.0
    pairs = itertools.combinations(maps.values(), 2)
    return np.mean([stats.spearmanr(a, b).statistic for a, b in pairs])


def test_findings_follow_from_the_archive_of_maps(swept):
    """Every effect, noise, interval, p and finding recomputed from maps.npz."""
    report = json.loads((swept / "sweep.json").read_text())
    assert len(report["effects"]) == 3 + 1
    p = []
    for compared in report["effects"]:
        rows = recomputed(swept, compared)
        difference = rows[:, 0] - rows[:, 1]
        for name, column in (("effect", rows[:, 0]), ("floor", rows[:, 1])):
            assert compared[name]["mean"] == pytest.approx(column.mean(), abs=1e-9)
        if np.isnan(rows[:, 2]).all():
            assert compared["same_seed"]["mean"] is None
        else:
            assert compared["same_seed"]["mean"] == pytest.approx(rows[:, 2].mean(), abs=1e-9)
        low, high = stats.t.interval(0.95, IMAGES - 1, difference.mean(), stats.sem(difference))
        assert compared["difference"]["interval"] == pytest.approx([low, high], abs=1e-9)
        assert compared["effect_size"] == pytest.approx(difference.mean() / difference.std(ddof=1))
        p.append(2 * stats.t.sf(abs(difference.mean() / stats.sem(difference)), IMAGES - 1))
        assert compared["p"] == pytest.approx(p[-1], rel=1e-6)
    order = np.argsort(p)
    corrected = np.maximum.accumulate([(len(p) - i) * p[k] for i, k in enumerate(order)])
    for value, k in zip(corrected, order, strict=True):
        assert report["effects"][k]["p_holm"] == pytest.approx(min(1, value), rel=1e-6)
        mean = report["effects"][k]["difference"]["mean"]
        assert report["effects"][k]["finding"] == (value < 0.05 and mean > 0)


NOTEBOOK = Path(__file__).parents[3] / "docs" / "notebooks" / "saliency_sweep.ipynb"


def code_of(notebook):
    """The code cells of a notebook, which holds no outputs."""
    contents = json.loads(notebook.read_text())
    assert (contents["nbformat"], contents["nbformat_minor"]) == (4, 5)
    cells = [cell for cell in contents["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    return ["".join(cell["source"]) for cell in cells]


@pytest.fixture
def notebook(swept, tmp_path, monkeypatch):
    """The notebook as a script beside the files that it reads."""
    for name in ("maps.npz", "grades.csv", "sweep.json"):
        shutil.copy(swept / name, tmp_path)
    code = "\n".join(code_of(NOTEBOOK))
    assert "sextant" not in code
    assert "models" not in code
    (tmp_path / "notebook.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "notebook.py"


def test_the_notebook_computes_the_report_again_from_the_downloaded_files(notebook, capsys):
    runpy.run_path(str(notebook))
    printed = capsys.readouterr().out
    assert "effects, noise, p values and findings are those of the report" in printed
    assert "the agreement of graders is that of the report" in printed


def test_the_notebook_notices_a_report_that_is_wrong(notebook):
    path = notebook.with_name("sweep.json")
    report = json.loads(path.read_text())
    report["effects"][1]["floor"]["mean"] += 1e-3
    path.write_text(json.dumps(report))
    with pytest.raises(AssertionError):
        runpy.run_path(str(notebook))


def test_random_maps_and_baselines_have_a_map_for_each_seed_and_image(swept):
    """Controls and noise baselines are drawn anew for every image and seed."""
    archive = np.load(swept / "maps.npz", allow_pickle=False)
    entries = json.loads(str(archive["index"]))
    count = {}
    for entry in entries:
        where = entry["method"], entry["baseline"]
        count[where] = count.get(where, 0) + 1
    assert count["random", "none"] == 4 * IMAGES
    assert count["occlusion", "black"] == IMAGES
    assert count["occlusion", "gaussian_noise"] == 3 * IMAGES
    random = [archive[entry["key"]] for entry in entries if entry["method"] == "random"]
    assert len({values.tobytes() for values in random}) == 4 * IMAGES
    shares = json.loads((swept / "sweep.json").read_text())["controls_not_beaten"]
    assert shares["deletion@zero"]["random"]["draws"] == 4
    assert shares["deletion@zero"]["random"]["images"] == IMAGES


def test_seeds_of_images_differ():
    starts = np.array([image_seed(0, position) for position in range(1000)], dtype=np.int64)
    seeds = (starts[:, None] + np.arange(1000)) % 2**32
    assert len(np.unique(seeds)) == 10**6
    assert image_seed(7, 900) == seeds[900, 7]
    assert image_seed(2**32 - 1, 0) == 2**32 - 1
    assert image_seed(2**32 - 1, 5) < 2**32


METHOD = {"id": "rise", "masks": 8, "grid": 2}


def made(kept, images=30, size=400, seeds=3):
    """Results of one random method: a map is signal of its baseline plus noise of its seed.

    ``kept`` is the correlation of the signals of both baselines. Maps of the same seed share their
    noise, as those of one set of masks do.
    """
    drawn = np.random.default_rng(0)
    maps = {}
    for image in range(images):
        signal = drawn.standard_normal(size)
        other = kept * signal + np.sqrt(1 - kept**2) * drawn.standard_normal(size)
        for seed in range(seeds):
            noise = drawn.standard_normal(size)
            for baseline, own_signal in (("black", signal), ("gray", other)):
                values = (own_signal + noise).reshape(20, 20)
                maps[MapKey(f"{image}", "rise", baseline, seed, 0)] = values
    return EvaluationResults(maps)


def compared_of(results, **fields):
    spec = the_sweep(methods=[METHOD], baselines=[{"id": "black"}, {"id": "gray"}], **fields)
    (entry,) = effects.effects(spec, effects.image_maps(results, set()))
    return entry


def test_a_baseline_without_effect_is_no_finding():
    """Equal signals: the difference is 0 within its interval, corrected divergence is 0.

    The same-seed pair is 0 exactly: shared masks hide the noise, and prove nothing.
    """
    entry = compared_of(made(kept=1.0))
    assert entry["same_seed"]["mean"] == pytest.approx(0, abs=1e-9)
    assert entry["floor"]["mean"] == pytest.approx(0.5, abs=0.03)
    low, high = entry["difference"]["interval"]
    assert low < 0 < high or abs(entry["difference"]["mean"]) < 1e-3
    assert entry["finding"] is False
    assert entry["corrected"]["mean"] == pytest.approx(0, abs=0.03)


def test_a_small_effect_below_the_noise_is_found():
    """Signals that correlate by 0.8 under noise of 0.5: divergence of same-seed pairs is 0.1.

    The earlier rule, a divergence below that of seeds is no finding, called this none.
    """
    entry = compared_of(made(kept=0.8))
    assert entry["same_seed"]["mean"] < entry["floor"]["mean"]
    assert entry["finding"] is True
    assert entry["corrected"]["mean"] == pytest.approx(0.2, abs=0.05)
    low, high = entry["difference"]["interval"]
    assert 0 < low < 0.1 < high + 0.02


@pytest.mark.parametrize(
    ("results", "fields", "reason"),
    [
        (made(kept=0.5, images=9), {}, "below 10 images"),
        (made(kept=0.5, seeds=1), {"seeds": [0]}, "of one seed"),
    ],
)
def test_what_cannot_be_tested_says_why(results, fields, reason):
    entry = compared_of(results, **fields)
    assert entry["finding"] is entry["p_holm"] is None
    assert entry["difference"]["interval"] is None
    assert reason in entry["reason"]


def test_images_below_the_least_score_are_left_out_of_all_statistics():
    results = made(kept=0.5, images=12)
    for name in {key.image for key in results.maps}:
        results.images[name] = {"targets": [{"score": float(name) / 100}]}
    results.grades = {key: {} for key in results.maps}
    from models.saliency.sweep import analyse

    spec = the_sweep(
        methods=[METHOD],
        baselines=[{"id": "black"}, {"id": "gray"}],
        graders=[{"id": "mprt"}],
        least_score=0.015,
    )
    results.grades = {key: {"mprt": 0.5} for key in results.maps}
    findings = analyse(spec, results)
    assert findings["design"]["left_out"] == ["0", "1"]
    assert findings["effects"][0]["effect"]["images"] == findings["design"]["images"] == 10
    assert findings["grader_reliability"]["mprt"]["images"] == 10
    assert sum(row["maps"] for row in findings["interaction"]) == 10 * 3 * 2


def test_hypotheses_are_fixed_in_the_spec():
    one = {"factor": "hyper-parameter", "methods": ["rise-1", "rise-2"]}
    assert [part.model_dump() for part in the_sweep(hypotheses=[one]).comparisons()] == [one]
    assert len(the_sweep().comparisons()) == 4
    wrong = {"factor": "hyper-parameter", "methods": ["occlusion", "rise-2"]}
    with pytest.raises(ValidationError, match=r"hypotheses.0: this sweep cannot compare.*rise-1"):
        the_sweep(hypotheses=[wrong])


def test_a_stored_sweep_of_an_earlier_release_still_runs():
    """It fitted max_rows with one map for each noise baseline; now there is one a seed."""
    stored = FIELDS | {
        "model": {"pretrained": "efficientnet_lite0"},
        "images": FIELDS["images"][:1],
        "methods": [{"id": "occlusion"}, {"id": "random"}],
        "max_rows": 900,
    }
    del stored["control_draws"]
    with pytest.raises(ValidationError, match="max_rows allows 900"):
        SaliencySweep.model_validate(stored)
    spec, warnings = load_stored(stored)
    assert spec.max_rows == 9000
    assert "max_rows: 900 is now 9,000" in warnings[0]
    sent = spec.model_dump(mode="json", exclude_unset=True)
    assert load_stored(sent) == (spec, [])  # a retry of the retry is not raised again


def test_holm_by_hand():
    """Holm 1979: 0.01 x 4, 0.02 x 3, 0.03 x 2 raised to the one before, 0.5."""
    assert estimates.holm([0.5, 0.01, None, 0.03, 0.02]) == pytest.approx(
        [0.5, 0.04, None, 0.06, 0.06]
    )


def test_t_intervals_cover_the_mean_and_none_is_given_below_ten_images():
    drawn = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        low, high = estimates.mean_over_images(drawn.standard_normal(12))["interval"]
        hits += low < 0 < high
    assert 0.94 < hits / 2000 < 0.96
    few = estimates.mean_over_images(np.arange(9.0))
    assert few["interval"] is None
    assert "below 10 images" in few["reason"]


def test_the_jackknife_of_a_mean_is_its_t_interval():
    rows = np.random.default_rng(0).standard_normal((15, 1))
    actual = estimates.jackknife(lambda some: float(some.mean()), rows)
    assert actual["interval"] == pytest.approx(estimates.mean_over_images(rows[:, 0])["interval"])
    ranks = np.tile(np.arange(4.0), (12, 1))
    assert estimates.jackknife(krippendorff, ranks)["interval"] == pytest.approx([1, 1])


def test_each_draw_of_a_control_counts():
    """Half of the draws above, half below the method: a share of one half, not of 0 or 1."""
    keys = [
        MapKey("a", "rise", "black", 0, 0),
        *(MapKey("a", "random", "none", s, 0) for s in (0, 1)),
    ]
    grades = dict(zip(keys, (0.5, 0.9, 0.1), strict=True))
    results = EvaluationResults(
        {name: np.eye(3) for name in keys},
        {name: {"road": value} for name, value in grades.items()},
    )
    shares = analysis.controls(analysis.Goodness(results, ["road"]))
    assert shares["road"]["random"]["mean"] == 0.5
    assert shares["road"]["random"]["draws"] == 2
