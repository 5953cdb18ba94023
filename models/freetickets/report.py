"""What a job leaves at its end: ensemble file, figures, tables, pictures."""

import csv
import re
import time
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.core import device
from models.freetickets import cost, ensemble, infer, sparse, view
from models.freetickets.evaluate import Tested, figures, mean_of, test_tickets, under_shift
from models.freetickets.training import Training
from models.nets import tickets
from models.supervised import card, outputs
from models.supervised.assess import assess_predictions
from models.supervised.loop import Fitted
from models.supervised.state import spec_digest

TIMED_ROUNDS = 7
# what the ensemble gives other programs, and which axis is the batch
EXPORTED = {"log_probabilities": 0, "member_log_probabilities": 1}


def finish(training: Training, fitted: Fitted) -> None:
    """Leave ensemble file, result, report, tables and pictures of a training that has ended."""
    done = _complete(training, fitted)
    tested = test_tickets(training, done, fitted.steps)
    values = _values(training, tested, fitted)
    together = ensemble.mixture(tested.logs)
    values |= assess_predictions(together, tested.labels, training.data, training.run)
    values |= _leave_ensemble(training, tested, values, fitted)
    values |= under_shift(training, tested)
    timings = _timed(training, tested)
    _write(training, tested, values, fitted, timings)
    training.run.result(**brief(values))


def brief(results: Any) -> Any:
    """The same without long tables: an event has a limit of bytes, the report has none."""
    if isinstance(results, list):
        return [brief(one) for one in results]
    if not isinstance(results, dict):
        return results
    return {
        name: brief(value)
        for name, value in results.items()
        if name not in ("sets", "by_corruption", "by_severity")
        and not re.fullmatch(r"ticket_\d+", name)
    }


def _complete(training: Training, fitted: Fitted) -> int:
    """Tickets there are; a run ended before its first keeps the net as it is."""
    done = sum(
        1 for phase in training.plan if phase.ticket is not None and phase.stop <= fitted.steps
    )
    if done == 0:
        training.topology.apply()
        masks = training.topology.named_masks()
        tickets.keep(training.net, masks, training.form, training.kept[0])
        training.run.warn("no_ticket", "the run ended before its first ticket; the net stands in")
    stops = {phase.ticket: phase.stop for phase in training.plan}
    for number in range(max(1, done)):
        if not (training.run.dir / f"tickets/ticket-{number}.safetensors").exists():
            training.leave_ticket(number, min(stops[number], fitted.steps))
    return max(1, done)


def _values(training: Training, tested: Tested, fitted: Fitted) -> dict[str, Any]:
    members = [figures(training, logs, tested.labels) for logs in tested.logs]
    together = figures(training, ensemble.mixture(tested.logs), tested.labels)
    mean = mean_of(members)
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


def _topology(training: Training, done: int) -> dict[str, Any]:
    """Overlap of the tickets' masks, and how much was tried."""
    if not training.spec.is_sparse:
        return {}
    masks = masks_of_tickets(training, done)
    iou = ensemble.jaccard(masks)
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


def masks_of_tickets(training: Training, done: int) -> list[Tensor]:
    """The whole mask of each ticket as one row, bool [weights]."""
    every = [tickets.masks_of(kept, training.form) for kept in training.kept[:done]]
    return [torch.cat([mask.reshape(-1) for mask in masks.values()]) for masks in every]


def work(training: Training, fitted: Fitted) -> dict[str, Any]:
    """Operations as the papers count them beside the seconds that were measured."""
    spec, clock = training.spec, fitted.clock
    layers = training.topology.layers
    shares = [training.topology.active[x.name] / x.size for x in layers]
    costs = cost.costs(layers, shares, spec.update_interval if spec.is_dynamic else None)
    ms = median(training.change_ms) if training.change_ms else 0.0
    # backward counts twice
    dense = 3 * costs.dense * fitted.steps * spec.batch(len(training.data.train))
    changing_s = ms * len(training.changes()) / 1000
    return {
        "steps": fitted.steps,
        "forward_macs_dense": costs.dense,
        "forward_macs_sparse": costs.sparse,
        "step_ratio_counted": costs.counted_ratio,
        "step_ratio_executed": costs.executed_ratio,
        "inference_ratio": spec.tickets * costs.forward_ratio,
        "train_macs_counted": dense * costs.counted_ratio,
        "train_macs_executed": dense * costs.executed_ratio,
        "train_seconds": clock.seconds,
        "median_update_ms": ms,
        "update_seconds": changing_s,
        "update_share": changing_s / clock.seconds if clock.seconds else None,
        "median_step_ms": clock.median_ms("full"),
        "median_update_step_ms": clock.median_ms("update"),
        "peak_gpu_bytes": clock.peak_bytes,
    }


def _leave_ensemble(
    training: Training, tested: Tested, values: dict[str, Any], fitted: Fitted
) -> dict[str, Any]:
    """The file of all tickets, the ensemble for other programs, its card; sizes, gaps, seconds."""
    spec, run, done = training.spec, training.run, len(tested.nets)
    about = card.make(
        spec, training.data, training.net, run.device, outputs.figures_of(values, "ensemble_")
    )
    path = run.dir / "ensemble.safetensors"
    checksum = tickets.write(path, training.kept[:done], training.form, about)
    run.artifact(path.name, role="weights", step=fitted.steps, tickets=done)
    started = time.perf_counter()
    gaps = outputs.export(
        "ensemble",
        infer.Ensemble([infer.fold(net) for net in tested.nets]),
        EXPORTED,
        about | {"tickets": done},
        outputs.samples(training.data),
        run,
        program=spec.wants_program(fitted.steps),
        onnx=spec.wants_onnx(training.topology.layers),
        reference=infer.Ensemble(tested.nets),
    )
    seconds = time.perf_counter() - started
    rows = {path.name: "all tickets without their zeros, with this card in the header"}
    rows |= {f"tickets/ticket-{k}.safetensors": "a ticket as a plain net" for k in range(done)}
    outputs.leave_config(tested.nets[0], about, run)
    outputs.leave_card(run, about, rows, gaps)
    sizes = {"ensemble_bytes": path.stat().st_size, "content_sha256": checksum}
    return sizes | {"export_gaps": gaps, "export_seconds": seconds}


def _timed(training: Training, tested: Tested) -> dict[str, list[dict[str, Any]]]:
    """Ways to run the ensemble, and every layer of the first ticket with its zeros left out."""
    layout = torch.channels_last if training.spec.channels_last else torch.contiguous_format
    nets = [infer.fold(net).to(memory_format=layout) for net in tested.nets]  # ty: ignore[no-matching-overload]  # a torch gap
    if training.run.device == "cuda":  # what sparse tensor cores take
        nets = [net.bfloat16() for net in nets]
    timings: dict[str, list[dict[str, Any]]] = {"ways": [], "layers": []}
    for size in training.spec.export.timings:
        x = outputs.samples(training.data, size).to(next(nets[0].parameters()))
        x = x.contiguous(memory_format=layout)
        name, _, ms, left_out = infer.fastest(nets, x, TIMED_ROUNDS)
        timings["ways"].append({"batch": size, "chosen": name, "ms": ms, "left_out": left_out})
        rows = sparse.choose_layers(nets[0], x)[1] if training.spec.is_sparse else []
        timings["layers"] += [row._asdict() for row in rows]
        training.run.check_stop()
    return timings


def _write(
    training: Training,
    tested: Tested,
    values: dict[str, Any],
    fitted: Fitted,
    timings: dict[str, list[dict[str, Any]]],
) -> None:
    run, spec, topology = training.run, training.spec, training.topology
    changes = training.changes()
    contents = {
        "result": values,
        "spec": spec.model_dump(mode="json"),
        "spec_sha256": spec_digest(spec),
        "device": device.describe(run.device),
        "phases": [phase._asdict() for phase in training.plan],
        "layers": [
            {**x._asdict(), "active": topology.active[x.name], "capped": x.name in topology.capped}
            for x in topology.layers
        ],
        "unmasked": training.unmasked,
        "fresh_parameters": training.fresh,
        "changes": changes,
        "timings": timings,
    }
    run.report("report.json", contents)
    _table(training, "history.csv", fitted.history)
    tables = {"updates.csv": changes, "layers.csv": timings["layers"]}
    if "corruptions" in values:
        tables["corruptions.csv"] = [_flat(row) for row in values["corruptions"]["sets"]]
    for name, rows in tables.items():
        if rows:
            _table(training, name, rows)
    _draw(training, tested, fitted, values)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Groups of figures as columns ``group_figure``."""
    plain = {key: value for key, value in row.items() if not isinstance(value, dict)}
    groups = {key: value for key, value in row.items() if isinstance(value, dict)}
    return plain | {f"{key}_{k}": x for key, group in groups.items() for k, x in group.items()}


def _table(training: Training, name: str, rows: list[dict[str, Any]]) -> None:
    plain = [{k: v for k, v in row.items() if not isinstance(v, dict)} for row in rows]
    with (training.run.dir / name).open("w", newline="") as file:
        table = csv.DictWriter(file, list(plain[0]))
        table.writeheader()
        table.writerows(plain)
    training.run.artifact(name, role="table")


def _moments(training: Training, fitted: Fitted) -> dict[str, float]:
    """When each ticket was kept, in seconds of training; then the next exploration begins."""
    steps, seconds = zip(*((row["step"], row["seconds"]) for row in fitted.history), strict=True)
    return {
        f"ticket {phase.ticket}": float(np.interp(phase.stop, (0, *steps), (0.0, *seconds)))
        for phase in training.plan
        if phase.ticket is not None and phase.stop <= fitted.steps
    }


def _draw(training: Training, tested: Tested, fitted: Fitted, values: dict[str, Any]) -> None:
    # matplotlib is for these pictures alone: a training started by a script does without.
    from models.freetickets import pictures
    from models.supervised import curves

    whole, alone = values["ensemble_accuracy"], values["ticket_accuracy_mean"]
    curves.draw(
        training.run.dir / "curves.png",
        {f"{training.spec.variant}, the net of the moment": fitted.history},
        f"{training.spec.model.name} on {training.spec.data.dataset}: {whole:.1%} of the test"
        f" images right by {len(tested.nets)} tickets together, {alone:.1%} by one on average",
        _moments(training, fitted),
        {"ensemble, test images": whole, "a ticket on average, test images": alone},
    )
    run, topology = training.run, training.topology
    *members, together = _bins(training, tested)
    run.figure("curves.png", data=True)
    pictures.reliability(run.dir / "reliability.png", members, together)
    run.figure("reliability.png", data=True)
    shares = {x.name: topology.active[x.name] / x.size for x in topology.layers}
    sparse = training.spec.is_sparse
    iou = ensemble.jaccard(masks_of_tickets(training, len(tested.nets))) if sparse else None
    differ = ensemble.disagreement(tested.logs).cpu()
    pictures.diversity(run.dir / "tickets.png", shares, iou, differ)
    run.figure("tickets.png", data=True)
    if "corruptions" in values:
        clean = {
            "ensemble": values["ensemble_accuracy"],
            "ticket_mean": values["ticket_accuracy_mean"],
        }
        pictures.corrupted(run.dir / "corruptions.png", values["corruptions"], clean)
        run.figure("corruptions.png")
    view.write(training, tested, [*members, together], values, iou)


def _bins(training: Training, tested: Tested) -> list[ensemble.Bins]:
    """Confidence and accuracy of each ticket, then of the ensemble."""
    chosen = training.spec.evaluate
    every = [*tested.logs, ensemble.mixture(tested.logs)]
    return [ensemble.bins(logs, tested.labels, chosen.ece_bins, chosen.ece_mode) for logs in every]
