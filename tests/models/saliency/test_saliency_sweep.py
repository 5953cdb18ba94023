"""The jobs saliency.evaluate and saliency.sweep on a small net, from spec to files."""

import json

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from models.core import checkpoint
from models.core.errors import DataError, SpecError
from models.core.run import Run, StoppedError
from models.saliency import analysis
from models.saliency.evaluate import evaluate
from models.saliency.map import map_images
from models.saliency.net import load
from models.saliency.net.space import Space
from models.saliency.results import EvaluationResults, MapKey
from models.saliency.spec.evaluate import SaliencyEvaluate, SaliencySweep
from models.saliency.spec.map import SaliencyMap
from models.saliency.sweep import sweep
from tests.models.saliency.saliency_nets import conv_net

FIELDS = {
    "model": {"job": "job_" + "0" * 32, "artifact": "weights.safetensors"},
    "images": [{"dataset": "photos", "index": 0}, {"dataset": "photos", "index": 1}],
    "methods": [
        {"id": "occlusion", "window": 8, "stride": 4},
        {"id": "occlusion", "window": 12, "stride": 6},
        {"id": "rise", "masks": 16, "estimator": "slope"},
        {"id": "edge"},
    ],
    "baselines": [{"id": "black"}, {"id": "gray"}],
    "graders": [
        {"id": "deletion", "points": 4},
        {"id": "insertion", "points": 4, "baseline": {"id": "black"}},
        {"id": "insertion", "points": 4, "baseline": {"id": "gray"}},
    ],
    "batch": 16,
}


@pytest.fixture(scope="module", autouse=True)
def _small():
    """A small net of 24 x 24 pixels in place of a checkpoint."""
    subject = load.Subject(
        conv_net(), list("abcde"), Space([0.5] * 3, [0.25] * 3), (24, 24), 3, 1.0
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "load_subject", lambda *_: subject)
        yield


def the_sweep(**fields):
    return SaliencySweep.model_validate(
        {"kind": "saliency.sweep", "seeds": [0, 1], **FIELDS, **fields}
    )


@pytest.fixture(scope="module")
def swept(_small, tmp_path_factory):
    """The run of a whole sweep."""
    folder = tmp_path_factory.mktemp("sweep")
    with (folder / "events.jsonl").open("w") as lines:
        run = Run(folder, lines)
        sweep(the_sweep(), run)
    return run


def events(run):
    return [json.loads(line) for line in (run.dir / "events.jsonl").read_text().splitlines()]


def test_sweep_computes_every_map_once(swept):
    """README, section 3: maps without a baseline once, random ones per seed; rows as planned."""
    report = json.loads((swept.dir / "sweep.json").read_text())
    assert len(report["grades"]) == 2 * (2 + 2 + 2 * 2 + 1)
    progress = [event for event in events(swept) if event["type"] == "progress"]
    assert progress[-1]["step"] == progress[-1]["total_steps"] == report["rows"]
    archive = np.load(swept.dir / "maps.npz", allow_pickle=False)
    index = json.loads(str(archive["index"]))
    assert len(index) == len(report["grades"])
    assert all(archive[entry["key"]].shape == (24, 24) for entry in index)
    assert {entry["seed"] for entry in index if entry["method"] == "rise"} == {0, 1}
    compared = [(effect["factor"], effect["methods"]) for effect in report["effects"]]
    assert compared == [
        ("baseline", ["occlusion-1"]),
        ("baseline", ["occlusion-2"]),
        ("baseline", ["rise"]),
        ("hyper-parameter", ["occlusion-1", "occlusion-2"]),
    ]
    assert set(report["noise"]) == {"rise"}
    assert set(report["winner_changes_with_baseline"]) == {"insertion"}
    assert set(report["controls_not_beaten"]["deletion@zero"]) == {"edge"}


def test_report_is_one_file_with_its_pictures(swept):
    page = (swept.dir / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len([*swept.dir.glob("*.png")]) == 5
    assert "http" not in page.partition("base64")[0]
    for picture in swept.dir.glob("*.png"):
        assert len(np.unique(np.asarray(Image.open(picture).convert("L")))) > 20


def test_report_marks_the_best_mean_grade_of_each_grader(swept):
    """Mean grades by method and baseline (rows) and grader (columns); no pair is left out."""
    interaction = json.loads((swept.dir / "sweep.json").read_text())["interaction"]
    page = (swept.dir / "report.html").read_text().partition("Mean grades")[2]
    grades = page.partition("<h2>Pictures")[0]
    assert grades.count("<tr>") == 1 + len(
        {(row["method"], row["baseline"]) for row in interaction}
    )
    for name in {row["grader"] for row in interaction}:
        means = [row["mean"] for row in interaction if row["grader"] == name]
        best = min(means) if name.startswith("deletion") else max(means)
        assert f'<td class="best">{best:.3f}</td>' in grades


def test_report_says_what_was_compared_and_explains_its_words(swept):
    """Two images are too few for a test, and the report says so in place of an interval."""
    page = (swept.dir / "report.html").read_text()
    assert page.partition("<h2>Sources")[0].count("<li>") == 4
    assert page.count("not tested (no interval: below 10 images") == 4
    for word in ("<dt>divergence</dt>", "<dt>deletion@zero</dt>", "below 0: less alike"):
        assert word in page


def test_report_tells_what_a_reader_needs_to_repeat_it(swept):
    page = (swept.dir / "report.html").read_text()
    report = json.loads((swept.dir / "sweep.json").read_text())
    for text in (checkpoint.digest_of(conv_net()), report["versions"]["torch"], "points 4"):
        assert text in page
    bib = (swept.dir / "references.bib").read_text()
    keys = [line[line.index("{") + 1 : -1] for line in bib.splitlines() if line.startswith("@")]
    statistics = ["hayes2007", "holm1979", "spearman1904"]
    assert keys == sorted([*statistics, "brunke2020", "petsiuk2018", "zeiler2014"])
    assert "Petsiuk, Das, Saenko: RISE: Randomized" in page.partition("<h2>Sources")[2]


def test_texts_of_users_are_no_html_in_the_report(new_run, monkeypatch):
    net = conv_net()
    subject = load.Subject(net, ["<b>a"] * 5, Space([0.5] * 3, [0.25] * 3), (24, 24), 3, 1.0)
    monkeypatch.setattr(load, "load_subject", lambda *_: subject)
    run = new_run()
    sweep(the_sweep(images=FIELDS["images"][:1], methods=[{"id": "edge"}]), run)
    page = (run.dir / "report.html").read_text()
    assert "&lt;b&gt;a" in page
    assert "<b>a" not in page


@pytest.mark.slow
def test_sweep_resumes_where_it_stopped(new_run):
    """A stop keeps the finished maps; the resumed run ends as one without a stop."""
    stopped, whole = new_run(), new_run()
    spec = the_sweep(images=FIELDS["images"][:1])
    log, left = stopped.log, [5]

    def counting(step, **values):
        log(step, **values)
        left[0] -= 1
        if left[0] == 0:
            stopped.request_stop("test")

    stopped.log = counting
    with pytest.raises(StoppedError):
        sweep(spec, stopped)
    (saved,) = [event for event in events(stopped) if event.get("role") == "checkpoint"]
    assert saved["step"] > 0
    resumed = new_run(resume=stopped, step=saved["step"])
    sweep(spec, resumed)
    sweep(spec, whole)
    for name in ("grades.csv", "curves.csv", "maps.npz"):
        assert (resumed.dir / name).read_bytes() == (whole.dir / name).read_bytes(), name


def test_evaluate_leaves_tables_and_agreement(new_run):
    run = new_run()
    spec = SaliencyEvaluate.model_validate({"kind": "saliency.evaluate", **FIELDS})
    evaluate(spec, run)
    report = json.loads((run.dir / "metrics.json").read_text())
    assert len(report["agreement"]) == 2 * 7 * 6 / 2
    rows = (run.dir / "grades.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 7 * 3
    assert (run.dir / "curves.csv").read_text().count("\n") == 1 + 2 * 7 * 3 * 5


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"methods": [{"id": "occlusion_raw"}]}, "use occlusion"),
        (
            {"model": {"pretrained": "efficientnet_lite0"}, "max_rows": 10},
            r"needs [\d,]+ rows.*max_rows allows 10",
        ),
        ({"graders": [{"id": "pointing_game", "box": [5, 5, 5, 9]}]}, "holds no pixel"),
        ({"graders": [{"id": "taste"}]}, "Input tag 'taste'"),
    ],
)
def test_specs_that_cannot_work_are_refused(fields, expected):
    with pytest.raises(ValidationError, match=expected):
        the_sweep(**fields)


def test_too_many_rows_for_an_own_net_are_refused_before_the_first(new_run):
    with pytest.raises(SpecError, match="max_rows allows 10"):
        sweep(the_sweep(max_rows=10), new_run())


def key(method="occlusion-1", baseline="black", seed=0):
    return MapKey("image", method, baseline, seed, 0)


def test_lower_grades_of_deletion_are_better():
    results = EvaluationResults(
        {key(): np.eye(3), key(baseline="gray"): np.eye(3)},
        {key(): {"deletion@zero": 0.1}, key(baseline="gray"): {"deletion@zero": 0.4}},
    )
    good = analysis.Goodness(results, ["deletion@zero"]).grades["deletion@zero"]
    assert good.tolist() == [[-0.1, -0.4]]


def with_given(run, values, **fields):
    """A job that grades one map of another job."""
    (run.dir / "inputs").mkdir(exist_ok=True)
    digest = "a" * 64
    np.save(run.dir / "inputs" / "map.npy", values)
    (run.dir / "inputs" / "map.npy").rename(run.dir / "inputs" / digest)
    ref = {"job": "job_" + "1" * 32, "artifact": "mine.npy", "sha256": digest}
    spec = {"kind": "saliency.evaluate", **FIELDS, "images": FIELDS["images"][:1]}
    spec |= {"methods": [{"id": "edge"}], "given": [{"name": "mine", "maps": [ref]}]}
    return SaliencyEvaluate.model_validate(spec | fields)


def test_a_given_map_is_graded_like_a_computed_one(new_run):
    """A control map given as an artifact gets the grades of the control itself."""
    first, second = new_run(), new_run()
    evaluate(with_given(first, np.eye(24)), first)
    edge = np.load(first.dir / "maps.npz")["map0"]
    evaluate(with_given(second, edge), second)
    grades = json.loads((second.dir / "metrics.json").read_text())["grades"]
    own, given = grades
    assert (given["method"], given["baseline"]) == ("given_mine", "none")
    assert given["values"] == own["values"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.zeros((3, 24)), r"given.0.maps.0 has shape \(3, 24\); the net's input is \(24, 24\)"),
        (np.full((24, 24), np.nan), "holds NaN"),
        (np.array("text"), "real numbers"),
    ],
)
def test_given_maps_that_cannot_be_graded_are_refused(new_run, values, expected):
    run = new_run()
    with pytest.raises(DataError, match=expected):
        evaluate(with_given(run, values), run)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"images": FIELDS["images"]}, "has 1 maps for 2 images"),
        ({"target": [0, 1]}, "a map is of one class"),
        ({"graders": [{"id": "mprt"}]}, "mprt compute further maps"),
    ],
)
def test_jobs_with_given_maps_that_cannot_work_are_refused(new_run, fields, expected):
    with pytest.raises(ValidationError, match=expected):
        with_given(new_run(), np.eye(24), **fields)


@pytest.mark.parametrize("kind", ["map", "evaluate"])
def test_a_net_that_fails_on_perturbed_images_is_reported_before_any_json(
    new_run, monkeypatch, kind
):
    """NaN reaches neither map nor report."""
    net = conv_net()
    forward = net.forward

    def failing(x):
        gray = (x == 0).flatten(1).sum(1)  # 192 values of a window, 1728 of the baseline itself
        return forward(x) / (1 - ((gray > 190) & (gray < 900)).float())[:, None]

    monkeypatch.setattr(net, "forward", failing)
    subject = load.Subject(net, list("abcde"), Space([0.5] * 3, [0.25] * 3), (24, 24), 3, 1.0)
    monkeypatch.setattr(load, "load_subject", lambda *_: subject)
    fields = {name: FIELDS[name] for name in ("model", "images", "batch")}
    fields |= {"baselines": [{"id": "gray"}], "engine": "plain"}
    fields |= {"methods": [{"id": "occlusion", "window": 8, "stride": 8}]}
    spec_class, work = {"map": (SaliencyMap, map_images), "evaluate": (SaliencyEvaluate, evaluate)}[
        kind
    ]
    run, spec = new_run(), spec_class.model_validate({"kind": f"saliency.{kind}", **fields})
    with pytest.raises(DataError, match="perturbed images") as caught:
        work(spec, run)
    assert "milder baseline" in caught.value.hint
