"""``classify.predict``: answers, classes by name, preparation, what is refused."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from models.classify.predict import matched, predict
from models.classify.serve import open_classifier
from models.classify.source import ImageSource
from models.classify.spec import ClassifyPredict
from models.core import checkpoint
from models.core.errors import DataError, SpecError
from models.core.spec import ArtifactRef
from models.freetickets.spec import FreeTicketsTrain
from models.freetickets.train import train
from models.nets.build import build_net
from models.nets.files import load_members, load_net
from tests.smallest import smallest

NET, DATA = "a" * 64, "b" * 64  # where the runner puts inputs
JOB = {"job": f"job_{'0' * 32}", "sha256": NET}
CLASSES = ["red", "green", "blue"]
RESNET = {"name": "resnet8", "width": 16}


def colours(count, size, seed=0):
    """Images [count, h, w, 3] with one bright channel, which is the label."""
    numbers = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = numbers.integers(0, 60, (count, *size, 3), dtype=np.uint8)
    images[np.arange(count), :, :, labels] += 150
    return images, labels


def answers(run):
    lines = map(json.loads, (run.dir / "events.jsonl").read_text().splitlines())
    (result,) = (line["values"] for line in lines if line["type"] == "result")
    return result


def warnings(run):
    lines = map(json.loads, (run.dir / "events.jsonl").read_text().splitlines())
    return [line["code"] for line in lines if line["type"] == "event"]


def table(run):
    return list(csv.DictReader((run.dir / "predictions.csv").read_text().splitlines()))


@pytest.fixture
def ask(new_run):
    """Classifies images by a net of three colours, which finds the brightest channel."""

    def ask(arrays, classes=CLASSES, channels=3, fit=None, **fields):
        run = new_run()
        (run.dir / "inputs").mkdir()
        torch.manual_seed(0)
        net = build_net(RESNET, len(classes), channels).eval()
        shown = {"height": 16, "width": 16, "channels": channels}
        shown |= {"mean": [0.5] * channels, "std": [0.5] * channels}
        if fit:
            shown["fit"] = fit
        card = {"net": RESNET, "classes": classes, "input": shown}
        checkpoint.write(run.dir / "inputs" / NET, net.state_dict(), card)
        with (run.dir / "inputs" / DATA).open("wb") as file:
            np.savez(file, **arrays)
        base = {
            "kind": "classify.predict",
            "model": JOB | {"artifact": "weights.safetensors"},
            "data": {"dataset": "own", "sha256": DATA},
        }
        predict(ClassifyPredict.model_validate(base | fields), run)
        return run, net

    return ask


def picture_file(image) -> bytes:
    """A PNG of pixels."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def test_a_net_that_stays_loaded_says_what_a_job_says(ask):
    images, labels = colours(6, (20, 24))
    run, _ = ask(arrays_of(images, labels), top=2)
    rows = table(run)
    answer = open_classifier(ArtifactRef(**JOB, artifact="weights.safetensors"), run)
    options = {"top": 2, "other_sizes": "resize"}
    said = answer([picture_file(image) for image in images], options)["predictions"]
    assert [[each["class"] for each in row] for row in said] == [
        [row["class_1"], row["class_2"]] for row in rows
    ]
    expected = [float(row["probability_1"]) for row in rows]
    assert [row[0]["probability"] for row in said] == pytest.approx(expected, rel=1e-5)
    for wrong, reason in ((b"BM and no more", "image 1: damaged"), (picture_file(images[0]), "20")):
        refuse = options | {"other_sizes": "refuse" if reason == "20" else "resize"}
        with pytest.raises(DataError, match=reason):
            answer([picture_file(colours(1, (16, 16))[0][0]), wrong], refuse)


def arrays_of(images, labels):
    return {"train_images": images, "train_labels": labels, "test_images": images,
            "test_labels": labels}  # fmt: skip


def test_probabilities_are_those_of_the_net(ask):
    images, labels = colours(9, (16, 16))
    run, net = ask(arrays_of(images, labels), classes=["0", "1", "2"], top=2, batch_size=4)
    x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.no_grad():
        expected = net(x).softmax(1)
    left = np.load(run.dir / "probabilities.npz")
    np.testing.assert_allclose(left["probabilities"], expected, atol=1e-5)
    assert left["classes"].tolist() == ["0", "1", "2"]
    rows, named = table(run), expected.argmax(1)
    assert [row["class_1"] for row in rows] == [str(int(k)) for k in named]
    assert [row["true_class"] for row in rows] == [str(label) for label in labels]
    assert "class_3" not in rows[0]
    result = answers(run)
    right = (named == torch.from_numpy(labels)).float().mean().item()
    assert result["accuracy"] == pytest.approx(right)
    assert result["top2_accuracy"] >= result["accuracy"]
    assert (result["images"], result["scored"]) == (9, 9)


def test_classes_are_matched_by_name(new_run):
    """Property 2 and 3: another order, classes that the net lacks, and one that it has twice."""
    labels = np.array([0, 1, 2, 3])
    run = new_run()
    source = ImageSource(4, [], labels, ["blue", "red", "violet", "grey"])
    assert matched(source, [*CLASSES, "grey", "grey"], run).tolist() == [2, 0, -1, -1]
    assert warnings(run) == ["classes_unknown"]
    same = new_run()
    assert matched(ImageSource(4, [], labels % 3, CLASSES), CLASSES, same).tolist() == [0, 1, 2, 0]
    assert matched(ImageSource(2, [], labels[:0], []), CLASSES, same).tolist() == [-1, -1]
    assert warnings(same) == []


def test_foreign_classes_give_no_accuracy(ask):
    images, labels = colours(6, (16, 16))
    run, _ = ask(arrays_of(images, labels))  # its classes are called 0, 1, 2
    assert warnings(run) == ["classes_unknown"]
    assert "accuracy" not in answers(run)
    assert "true_class" not in table(run)[0]


@pytest.mark.parametrize("size", [(16, 24), (40, 12), (8, 8)])
def test_other_sizes_are_resized_or_refused(ask, size):
    images, labels = colours(6, size)
    run, _ = ask(arrays_of(images, labels))
    assert answers(run)["images"] == 6
    with pytest.raises(DataError, match="16 x 16: give such images, or other_sizes resize"):
        ask(arrays_of(images, labels), other_sizes="refuse")


@pytest.mark.parametrize(
    ("fit", "way"), [(None, "whole"), ("squash", "whole"), ("crop", "central")]
)
def test_pictures_come_to_the_size_as_those_of_the_training(ask, fit, way):
    """What lies beside the central square counts for a net of whole pictures alone."""
    images, labels = colours(6, (16, 32))
    beside = images.copy()
    beside[:, :, :8], beside[:, :, 24:] = 0, 255
    found = []
    for pixels in (images, beside):
        run, _ = ask(arrays_of(pixels, labels), fit=fit)
        found.append(np.load(run.dir / "probabilities.npz")["probabilities"])
        report = json.loads((run.dir / "report.json").read_text())
        assert report["preparation"]["resized"] == way
    assert np.array_equal(*found) == (fit == "crop")


def test_channels_are_made_to_fit_or_refused(ask):
    """Grey for a colour net, colour for a grey one by luminance; four are neither."""
    images, labels = colours(6, (16, 16))
    grey = np.rint(images @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    runs = [ask(arrays_of(x, labels), channels=1)[0] for x in (images, grey)]
    first, second = (np.load(run.dir / "probabilities.npz")["probabilities"] for run in runs)
    np.testing.assert_allclose(first, second, atol=1e-6)
    repeated = np.repeat(grey[..., None], 3, axis=3)
    runs = [ask(arrays_of(x, labels))[0] for x in (grey, repeated)]
    first, second = (np.load(run.dir / "probabilities.npz")["probabilities"] for run in runs)
    np.testing.assert_allclose(first, second, atol=1e-6)
    with pytest.raises(DataError, match="4 channels, the net's input 3"):
        ask(arrays_of(np.concatenate([images, images[..., :1]], 3), labels))


def test_a_part_that_is_not_there_is_refused(ask):
    with pytest.raises(SpecError, match=r"split is 'validation'; own has the parts train, test"):
        ask(arrays_of(*colours(6, (16, 16))), split="validation")


def test_an_ensemble_is_the_mean_of_its_tickets(new_run):
    """Property 1, and accuracy on the test images is what the training reported."""
    trained, run = new_run(), new_run()
    train(FreeTicketsTrain.model_validate(smallest("freetickets.train")), trained)
    (run.dir / "inputs").mkdir()
    (run.dir / "inputs" / NET).write_bytes((trained.dir / "ensemble.safetensors").read_bytes())
    model = JOB | {"artifact": "ensemble.safetensors"}
    spec = {"kind": "classify.predict", "model": model, "data": {"dataset": "digits"}}
    predict(ClassifyPredict.model_validate(spec), run)
    result = answers(run)
    assert result["accuracy"] == pytest.approx(answers(trained)["ensemble_accuracy"])
    assert result["nll"] == pytest.approx(answers(trained)["ensemble_nll"], rel=1e-5)
    members, card = load_members(trained.dir / "ensemble.safetensors", "cpu")
    assert card["test"]["accuracy"] == result["accuracy"]
    ticket = load_net(trained.dir / "tickets/ticket-1.safetensors", "cpu").net
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(ticket(x), members[1].net(x))
