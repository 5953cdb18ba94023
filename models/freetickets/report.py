"""What a job leaves at its end: ensemble file, figures, tables, pictures."""

import csv
import json
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from models.core import device
from models.core.evaluate import predict
from models.core.train import Fitted
from models.core.training import describe, spec_digest
from models.data import images
from models.freetickets import cost, ensemble, shifts, tickets

if TYPE_CHECKING:
    from models.freetickets.train import Training

CHANGE_COLUMNS = ("step", "escape", "prune_rate", "dropped", "regrown")


class Tested(NamedTuple):
    """The tickets that there are, as nets, and what they say of the test images."""

    nets: list[nn.Module]
    logs: Tensor
    labels: Tensor


def finish(training: "Training", fitted: Fitted) -> None:
    """Leave ensemble file, result, report, tables and pictures of a training that has ended."""
    done = _complete(training, fitted)
    run, about = training.run, describe(training.spec, training.data)
    path = run.dir / "ensemble.safetensors"
    checksum = tickets.write(path, training.kept[:done], training.form, about)
    run.artifact(path.name, role="weights", step=fitted.steps, tickets=done)
    tested = test_tickets(training, done, fitted.steps)
    values = _values(training, tested, fitted)
    values |= {"ensemble_bytes": path.stat().st_size, "content_sha256": checksum}
    values |= _under_shift(training, tested)
    _write(training, tested, values, fitted)
    run.result(**values)


def _complete(training: "Training", fitted: Fitted) -> int:
    """Tickets there are; a run ended before its first keeps the net as it is."""
    done = sum(
        1 for phase in training.plan if phase.ticket is not None and phase.stop <= fitted.steps
    )
    if done == 0:
        masks = {f"{name}.weight": mask for name, mask in training.topology.masks.items()}
        training.topology.apply()
        tickets.keep(training.net, masks, training.form, training.kept[0])
        training.run.warn("no_ticket", "the run ended before its first ticket; the net stands in")
    stops = {phase.ticket: phase.stop for phase in training.plan}
    for number in range(max(1, done)):
        if not (training.run.dir / f"tickets/ticket-{number}.safetensors").exists():
            training.leave_ticket(number, min(stops[number], fitted.steps))
    return max(1, done)


def test_tickets(training: "Training", done: int, steps: int) -> Tested:
    """Predictions of each ticket, reported one by one."""
    about = describe(training.spec, training.data)
    nets, logs, labels = [], [], training.data.test_labels
    stops = [phase.stop for phase in training.plan if phase.ticket is not None]
    for number in range(done):
        net = tickets.rebuild(training.kept[number], training.form, about, training.run.device)
        nets.append(net)
        logs.append(predicted(training, net, images.evaluation_batches(training.data)))
        found = ensemble.figures(logs[-1], labels)
        at = min(stops[number], steps)
        training.run.log(at, ticket_accuracy=found.accuracy, ticket_nll=found.nll)
        total = training.total + training.spec.tickets
        training.run.progress(training.total + number + 1, total, phase="test")
        training.run.check_stop()
    return Tested(nets, torch.stack(logs), labels)


def predicted(training: "Training", net: nn.Module, pairs: Any) -> Tensor:
    with device.autocast(training.spec.precision, training.run.device):
        return predict(net, pairs)[0]


def _figures(training: "Training", logs: Tensor, labels: Tensor) -> dict[str, float]:
    chosen = training.spec.evaluate
    found = ensemble.figures(logs, labels, chosen.ece_bins, chosen.ece_mode)
    return found._asdict()


def _values(training: "Training", tested: Tested, fitted: Fitted) -> dict[str, Any]:
    members = [_figures(training, logs, tested.labels) for logs in tested.logs]
    together = _figures(training, ensemble.mixture(tested.logs), tested.labels)
    mean = {name: sum(m[name] for m in members) / len(members) for name in members[0]}
    differ, apart = ensemble.disagreement(tested.logs), ensemble.divergence(tested.logs)
    return {
        **{f"ensemble_{name}": value for name, value in together.items()},
        **{f"ticket_{name}_mean": value for name, value in mean.items()},
        "tickets": members,
        "ece_bins": training.spec.evaluate.ece_bins,
        "ece_mode": training.spec.evaluate.ece_mode,
        "disagreement": ensemble.off_diagonal(differ),
        "disagreement_matrix": differ.tolist(),
        "kl_nats": ensemble.off_diagonal(apart),
        "kl_nats_matrix": apart.tolist(),
        "ended_by": fitted.ended_by,
        **_topology(training, len(tested.nets)),
        **work(training, fitted),
    }


def _topology(training: "Training", done: int) -> dict[str, Any]:
    """Overlap of the tickets' masks, and how much was tried."""
    if not training.spec.is_sparse:
        return {}
    found = masks_of_tickets(training, done)
    iou = ensemble.jaccard(found)
    changes = training.changes()
    dropped = sum(row["dropped"] for row in changes)
    return {
        "active_weights": training.form.active,
        "weights": training.form.size,
        "mask_iou": ensemble.off_diagonal(iou),
        "mask_iou_matrix": iou.tolist(),
        "explored": training.topology.explored(),
        "updates": len(changes),
        "regrown_share": sum(row["regrown"] for row in changes) / dropped if dropped else None,
        "escape_regrown_shares": [
            row["regrown"] / max(1, row["dropped"]) for row in changes if row["escape"]
        ],
    }


def masks_of_tickets(training: "Training", done: int) -> list[Tensor]:
    """The whole mask of each ticket as one row."""
    every = [tickets.masks_of(kept, training.form) for kept in training.kept[:done]]
    return [torch.cat([mask.reshape(-1) for mask in masks.values()]) for masks in every]


def work(training: "Training", fitted: Fitted) -> dict[str, Any]:
    """Operations as the papers count them beside the seconds that were measured."""
    spec, clock = training.spec, fitted.clock
    layers = training.topology.layers
    shares = [training.topology.active[x.name] / x.size for x in layers]
    found = cost.costs(layers, shares, spec.update_interval if spec.is_dynamic else None)
    ms = median(training.change_ms) if training.change_ms else 0.0
    changing_s = ms * len(training.changes()) / 1000
    return {
        "steps": fitted.steps,
        "forward_macs_dense": found.dense,
        "forward_macs_sparse": found.sparse,
        "step_ratio_counted": found.counted_ratio,
        "step_ratio_executed": found.executed_ratio,
        "inference_ratio": spec.tickets * found.forward_ratio,
        "train_seconds": clock.seconds,
        "median_update_ms": ms,
        "update_seconds": changing_s,
        "update_share": changing_s / clock.seconds if clock.seconds else None,
        "median_step_ms": clock.median_ms("full"),
        "median_update_step_ms": clock.median_ms("update"),
        "peak_gpu_bytes": clock.peak_bytes,
    }


def _under_shift(training: "Training", tested: Tested) -> dict[str, Any]:
    chosen, found = training.spec.evaluate, {}
    if chosen.corruptions:
        found["corruptions"] = _corrupted(training, tested)
    if chosen.ood:
        found["ood"] = {ref.dataset: _strange(training, tested, ref) for ref in chosen.ood}
    if chosen.fgsm_eps:
        found["fgsm"] = [_attacked(training, tested, eps) for eps in chosen.fgsm_eps]
    return found


def _all(training: "Training", nets: Sequence[nn.Module], pixels: Tensor) -> Tensor:
    data = training.data
    return torch.stack([predicted(training, net, shifts.batches(data, pixels)) for net in nets])


def _corrupted(training: "Training", tested: Tested) -> dict[str, Any]:
    """Each corruption and severity, and all of them pooled as the authors do."""
    rows, pooled = [], []
    for kind in shifts.SEVERITIES:
        for severity in range(1, 6):
            pixels = shifts.corrupt(training.data.test, kind, severity)
            logs = ensemble.mixture(_all(training, tested.nets, pixels))
            pooled.append(logs)
            figures = _figures(training, logs, tested.labels)
            rows.append({"corruption": kind, "severity": severity, **figures})
            training.run.check_stop()
    labels = tested.labels.repeat(len(pooled))
    return {"aggregation": "pooled", **_figures(training, torch.cat(pooled), labels), "sets": rows}


def _strange(training: "Training", tested: Tested, ref: Any) -> dict[str, dict[str, float]]:
    """Detection of the test images of another set, brought to the size of this one."""
    plain = images.ImageOptions(image_size=training.data.size[0])
    other = images.load(ref, plain, training.run, training.spec.seed).test
    if other.shape[3] != training.data.channels:
        mean = other.float().mean(3, keepdim=True).round().to(torch.uint8)
        other = mean.expand(-1, -1, -1, training.data.channels).contiguous()
    inside = ensemble.doubt(tested.logs)
    outside = ensemble.doubt(_all(training, tested.nets, other))
    return {name: ensemble.detect(inside[name], outside[name])._asdict() for name in inside}


def _attacked(training: "Training", tested: Tested, eps: float) -> dict[str, Any]:
    """Figures under FGSM on the ensemble's mean, of the ensemble."""
    data, logs = training.data, []
    pairs = zip(data.test.split(images.CHUNK), data.test_labels.split(images.CHUNK), strict=True)
    for pixels, labels in pairs:
        x = shifts.attacked(tested.nets, data, pixels, labels, eps)
        with torch.no_grad():
            each = torch.stack([net(x).float().log_softmax(1) for net in tested.nets])
        logs.append(ensemble.mixture(each))
        training.run.check_stop()
    return {"eps": eps, "target": "ensemble", **_figures(training, torch.cat(logs), tested.labels)}


def _write(training: "Training", tested: Tested, values: dict[str, Any], fitted: Fitted) -> None:
    run, spec, topology = training.run, training.spec, training.topology
    changes = training.changes()
    told = {
        "result": values,
        "spec": spec.model_dump(mode="json"),
        "spec_sha256": spec_digest(spec),
        "device": device.describe(run.device),
        "phases": [phase._asdict() for phase in training.plan],
        "layers": [
            {**x._asdict(), "active": topology.active[x.name], "capped": x.name in topology.capped}
            for x in topology.layers
        ],
        "changes": changes,
    }
    (run.dir / "report.json").write_text(json.dumps(told, indent=2))
    run.artifact("report.json", role="report")
    _table(training, "history.csv", fitted.history)
    if changes:
        _table(training, "updates.csv", changes)
    _draw(training, tested, fitted)


def _title(training: "Training") -> str:
    return f"{training.spec.model.name} on {training.spec.data.dataset}"


def _table(training: "Training", name: str, rows: list[dict[str, Any]]) -> None:
    plain = [{k: v for k, v in row.items() if not isinstance(v, dict)} for row in rows]
    with (training.run.dir / name).open("w", newline="") as file:
        table = csv.DictWriter(file, list(plain[0]))
        table.writeheader()
        table.writerows(plain)
    training.run.artifact(name, role="table")


def _draw(training: "Training", tested: Tested, fitted: Fitted) -> None:
    # matplotlib is for these pictures alone: a training started by a script does without.
    from models.core import curves
    from models.freetickets import pictures

    histories = {str(training.spec.variant): fitted.history}
    curves.draw(training.run.dir / "curves.png", histories, _title(training))
    training.run.artifact("curves.png", role="image")
    run, chosen, topology = training.run, training.spec.evaluate, training.topology
    count, mode = chosen.ece_bins, chosen.ece_mode
    members = [ensemble.bins(logs, tested.labels, count, mode) for logs in tested.logs]
    together = ensemble.bins(ensemble.mixture(tested.logs), tested.labels, count, mode)
    pictures.reliability(run.dir / "reliability.png", members, together)
    run.artifact("reliability.png", role="image")
    shares = {x.name: topology.active[x.name] / x.size for x in topology.layers}
    sparse = training.spec.is_sparse
    iou = ensemble.jaccard(masks_of_tickets(training, len(tested.nets))) if sparse else None
    differ = ensemble.disagreement(tested.logs).cpu()
    pictures.diversity(run.dir / "tickets.png", shares, iou, differ)
    run.artifact("tickets.png", role="image")
