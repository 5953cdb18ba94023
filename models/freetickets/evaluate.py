"""What tickets and ensemble say of test images: as they are, corrupted, attacked, of other sets."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.core import device
from models.core.spec import DatasetRef
from models.data import images
from models.data.sizing import CHUNK
from models.freetickets import corruptions, ensemble, shifts
from models.freetickets.spec import CORRUPTED_SETS
from models.freetickets.training import Training
from models.nets import tickets
from models.supervised.evaluate import predict
from models.supervised.state import describe

Figures = dict[str, float]


class Tested(NamedTuple):
    """The tickets that there are, as nets, and what they say of the test images."""

    nets: list[nn.Module]
    logs: Tensor
    labels: Tensor


def test_tickets(training: Training, done: int, steps: int) -> Tested:
    """Predictions of each ticket, reported one by one."""
    about = describe(training.spec, training.data, training.net)
    nets, logs, labels = [], [], training.data.test_labels
    stops = [phase.stop for phase in training.plan if phase.ticket is not None]
    for number in range(done):
        net = tickets.rebuild(training.kept[number], training.form, about, training.run.device)
        nets.append(net)
        logs.append(predicted(training, net, images.evaluation_batches(training.data)))
        scores = ensemble.figures(logs[-1], labels)
        at = min(stops[number], steps)
        training.run.log(at, ticket_accuracy=scores.accuracy, ticket_nll=scores.nll)
        report_progress(training, number + 1)
    return Tested(nets, torch.stack(logs), labels)


def report_progress(training: Training, done: int) -> None:
    """Progress after the training: tests done, of all that the job makes."""
    training.run.progress(training.total + done, training.whole, phase="test")
    training.run.check_stop()


def predicted(training: Training, net: nn.Module, pairs: Any) -> Tensor:
    """Log-probabilities [n, classes] of a ticket, in the precision of the job."""
    with device.autocast(training.spec.precision, training.run.device):
        return predict(net, pairs)[0]


def figures(training: Training, logs: Tensor, labels: Tensor) -> Figures:
    """Accuracy, NLL, Brier score and ECE, in the bins that the spec asks for.

    Log-probabilities [n, classes], labels [n].
    """
    chosen = training.spec.evaluate
    scores = ensemble.figures(logs, labels, chosen.ece_bins, chosen.ece_mode)
    return scores._asdict()


def mean_of(rows: Sequence[Figures]) -> Figures:
    """The mean of each figure."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def under_shift(training: Training, tested: Tested) -> dict[str, Any]:
    """Figures on what the nets were not trained for, as far as the spec asks for them."""
    chosen, results = training.spec.evaluate, {}
    done = training.spec.tickets
    if chosen.corruptions:
        results["corruptions"] = _corrupted(training, tested)
        done += CORRUPTED_SETS
    for ref in chosen.ood:
        results.setdefault("ood", {})[ref.dataset] = _strange(training, tested, ref)
        report_progress(training, done := done + 1)
    for eps in chosen.fgsm_eps:
        results.setdefault("fgsm", []).append(_attacked(training, tested, eps))
        report_progress(training, done := done + 1)
    return results


def _all(training: Training, nets: Sequence[nn.Module], pixels: Tensor) -> Tensor:
    data = training.data
    return torch.stack([predicted(training, net, shifts.batches(data, pixels)) for net in nets])


def _both(training: Training, logs: Tensor, labels: Tensor) -> dict[str, Figures]:
    """Figures of the ensemble, of each ticket, and the mean of those of the tickets."""
    each = [figures(training, one, labels) for one in logs]
    return {
        "ensemble": figures(training, ensemble.mixture(logs), labels),
        "ticket_mean": mean_of(each),
        **{f"ticket_{number}": scores for number, scores in enumerate(each)},
    }


def _corrupted(training: Training, tested: Tested) -> dict[str, Any]:
    """Each corruption and severity; their mean, and all images pooled as the authors do."""
    rows, pooled, done = [], [], training.spec.tickets
    for kind in corruptions.KINDS:
        for severity in range(1, corruptions.SEVERITIES + 1):
            pixels = corruptions.corrupt(training.data.test[:], kind, severity)
            logs = _all(training, tested.nets, pixels)
            pooled.append(ensemble.mixture(logs).float())
            both = _both(training, logs, tested.labels)
            rows.append({"corruption": kind, "severity": severity, **both})
            report_progress(training, done := done + 1)
    everything = figures(training, torch.cat(pooled), tested.labels.repeat(len(pooled)))
    return {
        "mean": _mean_rows(rows),
        "pooled": {"ensemble": everything},
        "by_corruption": _grouped(rows, "corruption"),
        "by_severity": _grouped(rows, "severity"),
        "sets": rows,
    }


def _mean_rows(rows: Sequence[dict[str, Any]]) -> dict[str, Figures]:
    groups = [name for name, value in rows[0].items() if isinstance(value, dict)]
    return {who: mean_of([row[who] for row in rows]) for who in groups}


def _grouped(rows: Sequence[dict[str, Any]], by: str) -> dict[str, dict[str, Figures]]:
    keys = dict.fromkeys(row[by] for row in rows)
    return {str(key): _mean_rows([row for row in rows if row[by] == key]) for key in keys}


def _strange(training: Training, tested: Tested, ref: DatasetRef) -> dict[str, Any]:
    """Detection of the test images of another set, brought to the size of this one."""
    fit = training.spec.images.fit
    plain = images.ImageOptions(image_size=training.data.size[0], fit=fit)
    other = images.load(ref, plain, training.run, training.spec.seed).test[:]
    if other.shape[3] != training.data.channels:
        mean = other.float().mean(3, keepdim=True).round().to(torch.uint8)
        other = mean.expand(-1, -1, -1, training.data.channels).contiguous()
    logs = _all(training, tested.nets, other)
    each = [_detected(a[None], b[None]) for a, b in zip(tested.logs, logs, strict=True)]
    single = [{name: one[name] for name in ("msp", "entropy")} for one in each]
    return {"ensemble": _detected(tested.logs, logs), "tickets": single}


def _detected(inside: Tensor, outside: Tensor) -> dict[str, Figures]:
    known, strange = ensemble.doubt(inside), ensemble.doubt(outside)
    return {name: ensemble.detect(known[name], strange[name])._asdict() for name in known}


def _attacked(training: Training, tested: Tested, eps: float) -> dict[str, Any]:
    """Figures under FGSM on the ensemble's mean: of the ensemble, and of its tickets."""
    data, logs = training.data, []
    pairs = zip(data.test.split(CHUNK), data.test_labels.split(CHUNK), strict=True)
    for pixels, labels in pairs:
        x = shifts.attacked(tested.nets, data, pixels, labels, eps)
        with torch.no_grad():
            logs.append(torch.stack([net(x).float().log_softmax(1) for net in tested.nets]))
        training.run.check_stop()
    scores = _both(training, torch.cat(logs, 1), tested.labels)
    return {"eps": eps, "target": "ensemble", **scores}
