"""What a job leaves: property 13, files, evaluation under shift, exports."""

import csv
import json

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from models.core.errors import DataError
from models.core.run import Run
from models.data import synthetic
from models.freetickets import report
from models.freetickets import train as method
from models.freetickets.infer import Ensemble
from models.freetickets.spec import CORRUPTED_SETS, FreeTicketsTrain
from models.nets import tickets
from models.nets.files import load_net
from models.supervised import curves

OWN, OTHER = "a" * 64, "b" * 64  # where the runner puts uploaded sets


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A job on an uploaded set with everything that an evaluation and an export can leave."""
    folder = tmp_path_factory.mktemp("job")
    for name in ("resume", "inputs"):
        (folder / name).mkdir()
    pairs = [synthetic.blobs(n, classes=4, size=8, channels=1, seed=n) for n in (128, 64)]
    arrays = dict(zip(("train", "test"), pairs, strict=True))
    with (folder / "inputs" / OWN).open("wb") as file:
        actual = {f"{k}_images": pair[0].numpy() for k, pair in arrays.items()}
        np.savez(file, **actual, **{f"{k}_labels": pair[1].numpy() for k, pair in arrays.items()})
    noise = np.random.default_rng(0).integers(0, 256, (100, 12, 12, 3), dtype=np.uint8)
    with (folder / "inputs" / OTHER).open("wb") as file:  # in colour, and of another size
        np.savez(file, images=noise, labels=np.arange(100) % 2)
    own, again = ({"dataset": name, "sha256": OWN} for name in ("own", "again"))
    spec = FreeTicketsTrain.model_validate(
        {
            "kind": "freetickets.train",
            "model": {"name": "wide_resnet", "depth": 10, "widen": 1},
            "data": own,
            "max_steps": 60,
            "batch_size": 32,
            "update_interval": 5,
            "optimizer": {"lr": 0.1, "nesterov": False},
            "evaluate": {
                "corruptions": True,
                "fgsm_eps": [0.03],
                "ood": [{"dataset": "noise", "sha256": OTHER}, again],
            },
            "export": {"onnx": True, "program": True, "timings": [16]},
        }
    )
    with (folder / "events.jsonl").open("w") as events:
        run = Run(folder, events, checkpoint_interval_s=1e9)
        method.train(spec, run)
    return folder, json.loads((folder / "report.json").read_text())


def test_files_give_the_same_predictions(finished):
    """Property 13: ticket and ensemble file, torch.export and ONNX, at any batch size."""
    folder, report = finished
    loaded = tickets.load(folder / "ensemble.safetensors")
    shown = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        mean, logs = Ensemble(loaded.nets)(shown)
    for number, net in enumerate(loaded.nets):
        plain = load_net(folder / f"tickets/ticket-{number}.safetensors", "cpu")
        assert torch.equal(plain.net(shown), net(shown))
    session = onnxruntime.InferenceSession(folder / "ensemble.onnx")
    extra = {"description.json": ""}
    program = torch.export.load(folder / "ensemble.pt2", extra_files=extra)
    answers = {
        "onnx": [torch.from_numpy(y) for y in session.run(None, {"images": shown.numpy()})],
        "program": program.module()(shown),
    }
    for name, actual in answers.items():
        torch.testing.assert_close(actual[0], mean, rtol=1e-5, atol=1e-5, msg=name)
        torch.testing.assert_close(actual[1], logs, rtol=1e-5, atol=1e-5, msg=name)
    assert set(report["result"]["export_gaps"]) == {"ensemble.pt2", "ensemble.onnx"}
    assert max(report["result"]["export_gaps"].values()) < 1e-5
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == json.loads(extra["description.json"])["classes"]


def test_report_holds_what_was_asked_for(finished):
    """Figures under shift agree with each other; Jensen holds on every set (property 12)."""
    _, report = finished
    result = report["result"]
    assert result["ensemble_nll"] <= result["ticket_nll_mean"]
    actual = result["corruptions"]
    assert len(actual["sets"]) == CORRUPTED_SETS
    assert all(row["ensemble"]["nll"] <= row["ticket_mean"]["nll"] + 1e-9 for row in actual["sets"])
    for figure in ("accuracy", "nll", "brier"):  # all sets are of one size: pooled is the mean
        assert actual["pooled"]["ensemble"][figure] == pytest.approx(
            actual["mean"]["ensemble"][figure], rel=1e-5
        )
    assert actual["pooled"]["ensemble"]["ece"] <= actual["mean"]["ensemble"]["ece"] + 1e-9
    each = [actual["mean"][f"ticket_{number}"]["accuracy"] for number in range(3)]
    assert sum(each) / 3 == pytest.approx(actual["mean"]["ticket_mean"]["accuracy"])
    assert actual["mean"]["ensemble"]["nll"] <= max(
        actual["mean"][f"ticket_{number}"]["nll"] for number in range(3)
    )
    assert len(actual["by_corruption"]) == 14
    assert len(actual["by_severity"]) == 5
    attack = result["fgsm"][0]
    assert {"ticket_0", "ticket_1", "ticket_2"} <= set(attack)
    assert attack["ensemble"]["nll"] > result["ensemble_nll"]
    assert set(result["ood"]) == {"noise", "again"}
    for actual in result["ood"].values():
        assert set(actual["ensemble"]) == {"msp", "entropy", "mutual_information"}
        assert len(actual["tickets"]) == 3
        for one in (actual["ensemble"], *actual["tickets"]):
            assert all(0 <= x["auroc"] <= 1 and 0 <= x["fpr95"] <= 1 for x in one.values())
    for one in result["ood"]["again"]["ensemble"].values():  # the test images against themselves
        assert one["auroc"] == pytest.approx(0.5)
        assert one["fpr95"] == pytest.approx(0.95, abs=0.02)
    assert 0 < result["mask_iou"] < 1
    for name, ends in (("mask_iou_matrix", 1.0), ("disagreement_matrix", 0.0)):
        matrix = torch.tensor(result[name])
        assert torch.equal(matrix, matrix.T)
        assert matrix.diagonal().tolist() == [ends] * 3


def test_the_result_is_the_report_without_its_long_tables(finished):
    """An event holds at most 64 KiB, which three tickets on all corrupted sets would pass."""
    folder, report = finished
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    (result,) = [event for event in events if event["type"] == "result"]
    actual, whole = result["values"], report["result"]
    assert set(actual) == set(whole)
    assert set(actual["corruptions"]) == {"mean", "pooled"}
    assert set(actual["corruptions"]["mean"]) == {"ensemble", "ticket_mean"}
    assert actual["corruptions"]["mean"]["ensemble"] == whole["corruptions"]["mean"]["ensemble"]
    assert set(actual["fgsm"][0]) == {"eps", "target", "ensemble", "ticket_mean"}
    assert actual["tickets"] == whole["tickets"]
    assert actual["mask_iou_matrix"] == whole["mask_iou_matrix"]


def test_operations_stand_beside_seconds(finished):
    """Both conventions, from the densities of the layers, next to what was measured."""
    _, report = finished
    result, layers = report["result"], report["layers"]
    dense = sum(x["macs"] for x in layers)
    share = (
        sum(
            x["macs"] * x["active"] / (x["c_out"] * x["c_in"] * max(1, x["kernel"]) ** 2)
            for x in layers
        )
        / dense
    )
    assert result["forward_macs_dense"] == dense
    assert result["step_ratio_executed"] == pytest.approx((2 * share + 1) / 3)
    assert result["step_ratio_counted"] == pytest.approx((3 * share * 5 + 2 * share + 1) / 18)
    assert result["inference_ratio"] == pytest.approx(3 * share)
    for name in ("counted", "executed"):
        expected = 3 * dense * 60 * 32 * result[f"step_ratio_{name}"]
        assert result[f"train_macs_{name}"] == pytest.approx(expected)
    assert result["train_seconds"] > 0
    assert result["median_step_ms"] > 0


def test_tables_and_pictures_are_left(finished):
    folder, report = finished
    with (folder / "layers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == [x["name"] for x in report["layers"]]
    assert all(row["reason"] for row in rows)
    assert {row["kept"] for row in rows} <= {"dense", "csr"}
    (ways,) = report["timings"]["ways"]
    assert ways["batch"] == 16
    assert ways["ms"][ways["chosen"]] == min(ways["ms"].values())
    with (folder / "corruptions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == CORRUPTED_SETS
    for name in ("curves", "reliability", "tickets", "corruptions"):
        assert (folder / f"{name}.png").stat().st_size > 10_000
    active = sum(layer["active"] for layer in report["layers"])
    values = load_file(folder / "ensemble.safetensors")["ticket.0.values"]
    assert len(values) == active == report["result"]["active_weights"]


def test_curves_tell_when_tickets_were_kept_and_what_they_reach_together(
    data, make_spec, new_run, trained, monkeypatch
):
    """The line is that of the net of the moment, which starts again after each ticket."""
    drawn = []
    monkeypatch.setattr(curves, "draw", lambda *given: drawn.append(given))
    monkeypatch.setattr(Run, "figure", lambda *_, **__: None)
    training, fitted = trained(make_spec(variant="edst"), data, new_run())
    report.finish(training, fitted)
    ((_path, histories, title, moments, levels),) = drawn
    assert list(histories) == ["edst, the net of the moment"]
    assert list(moments) == ["ticket 0", "ticket 1"]
    times = list(moments.values())
    assert times == sorted(times)
    assert times[-1] == pytest.approx(fitted.clock.seconds, rel=0.01)
    result = json.loads((training.run.dir / "report.json").read_text())["result"]
    assert levels["ensemble, test images"] == result["ensemble_accuracy"]
    assert f"{result['ensemble_accuracy']:.1%} of the test images right by 2 tickets" in title


def test_a_damaged_ensemble_is_refused(data, make_spec, new_run, trained):
    training, fitted = trained(make_spec(variant="static"), data, new_run())
    report.finish(training, fitted)
    path = training.run.dir / "ensemble.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="checksum"):
        tickets.load(path)
    ticket = training.run.dir / "tickets/ticket-0.safetensors"
    with pytest.raises(DataError, match="no ensemble file"):
        tickets.load(ticket)


def test_a_run_ended_early_keeps_what_there_is(data, make_spec, new_run, trained):
    run = new_run()
    spec = make_spec(max_steps=5000, budget={"max_seconds": 0.2})
    training, fitted = trained(spec, data, run)
    report.finish(training, fitted)
    assert fitted.ended_by == "max_seconds"
    assert len(tickets.load(run.dir / "ensemble.safetensors").nets) == 1


def test_the_view_shows_what_tickets_disagree_on(finished):
    """Images by how many classes the tickets name, each with its votes; the ensemble comes last."""
    folder, report = finished
    seen, result = json.loads((folder / "view.json").read_text()), report["result"]
    assert seen["members"] == ["ticket 0", "ticket 1", "ticket 2"]
    assert seen["figures"][-1]["nll"] == result["ensemble_nll"]
    assert all(sum(each["counts"]) == seen["images"] == 64 for each in seen["calibration"])
    assert [len(each["values"]) for each in seen["matrices"]] == [3, 3, 3]
    disputed = seen["disputed"]
    named = [len({name for name, _ in row["votes"][:-1]}) for row in disputed["rows"]]
    assert named == sorted(named, reverse=True)
    stored = np.load(folder / "view.npz")["disputed"]
    raw = (folder / "view.npz").read_bytes()[disputed["offset"] :]
    assert raw.startswith(stored.tobytes())
    test = np.load(folder / "inputs" / OWN)["test_images"]
    np.testing.assert_array_equal(stored, test[[row["index"] for row in disputed["rows"]]])
