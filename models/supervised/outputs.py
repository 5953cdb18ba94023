"""What every training of a classifier leaves for others: weights with a card, ONNX, a program.

A file for other programs is compared with the net once it is written, and is not left when they
differ; the training is then none the worse, and a warning says so.
"""

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.core import checkpoint
from models.core import program as programs
from models.core.run import Run
from models.data import images
from models.data.images import ImageData
from models.nets.build import build_net
from models.nets.library import timm_config
from models.supervised import card
from models.supervised.spec import CONFIG, SupervisedSpec

WEIGHTS, CARD = "weights.safetensors", "model_card.md"
LOGITS = {"logits": 0}  # and which of its axes is the batch


def leave(
    net: nn.Module,
    spec: SupervisedSpec,
    data: ImageData,
    run: Run,
    figures: Mapping[str, Any],
    steps: int,
    portable: nn.Module | None = None,
) -> dict[str, Any]:
    """Leave the files of one trained net; their gaps and the seconds that this took.

    Args:
        net: after the training.
        spec: of the job.
        data: that it was trained on.
        run: takes the files.
        figures: of the test, named as in a result.
        steps: of the training.
        portable: the same function for other programs; the plain net of these weights if None.
    """
    about = card.make(spec, data, net, run.device, figures_of(figures))
    checkpoint.write(run.dir / WEIGHTS, net.state_dict(), about)
    run.artifact(WEIGHTS, role="weights", step=steps)
    if portable is None:
        portable = build_net(about["net"], len(data.classes), data.channels, data.size)
        portable.load_state_dict(net.state_dict())
    started = time.perf_counter()
    wanted = spec.wants_program(steps)
    gaps = export("net", portable, LOGITS, about, samples(data), run, program=wanted)
    seconds = time.perf_counter() - started
    leave_config(net, about, run)
    leave_card(run, about, {WEIGHTS: "the weights, with this card in the header"}, gaps)
    return {"export_gaps": gaps, "export_seconds": seconds}


def leave_config(net: nn.Module, about: Mapping[str, Any], run: Run) -> None:
    """Leave what timm needs to load the weights of a net of its own; of another net nothing.

    Args:
        net: that was trained.
        about: its card.
        run: takes the file.
    """
    if about["net"].get("library") == "timm":
        (run.dir / CONFIG.name).write_text(json.dumps(timm_config(net, about), indent=1))
        run.artifact(CONFIG.name, role=CONFIG.role)


def leave_card(
    run: Run, about: Mapping[str, Any], weights: Mapping[str, str], exported: Mapping[str, float]
) -> None:
    """Leave the card as text.

    Args:
        run: takes the file.
        about: the card.
        weights: description of each file of weights, by name.
        exported: names of the files for other programs, with their gaps.
    """
    rows = list(weights.items())
    rows += [
        (name, f"the net for other programs; off by {gap:.1e}") for name, gap in exported.items()
    ]
    (run.dir / CARD).write_text(card.markdown(about, rows))
    run.artifact(CARD, role="report")


def figures_of(figures: Mapping[str, Any], prefix: str = "test_") -> dict[str, float | None]:
    """The figures of a card, from those of a result."""
    named = {name: figures.get(f"{prefix}{name}") for name in card.SHOWN}
    further = {
        "balanced accuracy": figures.get("balanced_test_accuracy"),
        "top-5 accuracy": figures.get("top5_test_accuracy"),
    }
    return named | further


def samples(data: ImageData, count: int = 3) -> Tensor:
    """Normalised test images on the CPU, float32 [count, c, h, w]; over again where too few."""
    some = data.test[torch.arange(count) % len(data.test)].cpu()
    return images.normalise(some, data.mean, data.std).contiguous()


def export(
    stem: str,
    net: nn.Module,
    outputs: Mapping[str, int],
    about: Mapping[str, Any],
    x: Tensor,
    run: Run,
    *,
    program: bool,
    onnx: bool = True,
    reference: nn.Module | None = None,
) -> dict[str, float]:
    """Leave ``stem.onnx`` and ``stem.pt2`` as far as they are wanted and the net can be written.

    Args:
        stem: of the names.
        net: is copied to the CPU, in eval mode; so is ``reference``.
        outputs: its outputs and which axis of each is the batch.
        about: goes into the files.
        x: three normalised images [3, c, h, w] on the CPU.
        run: takes files and warnings.
        program: whether the program of ``torch.export`` is wanted.
        onnx: whether ONNX is wanted.
        reference: what the answers are compared with, if not ``net`` itself.

    Returns:
        The largest gap of each file to the net, relative where a value is above 1.
    """
    net = _on_cpu(net)
    expected = _answers(net if reference is None else _on_cpu(reference), x)
    gaps: dict[str, float] = {}
    if onnx:
        from models.core import onnx_net  # the package is for these files alone

        def write_onnx(path: Path) -> list[float]:
            onnx_net.write(path, net, x[:2], outputs, about)
            # one image is another batch than the two, and the reference is slow
            one = [y.narrow(axis, 0, 1) for y, axis in zip(expected, outputs.values(), strict=True)]
            return _gaps(onnx_net.run(path, x[:1]), one)

        gaps |= _written(run, f"{stem}.onnx", write_onnx)
    if program:

        def write_program(path: Path) -> list[float]:
            answer = programs.save(path, programs.export(net, x[:2]), about)
            with torch.no_grad():
                return _gaps(_several(answer(x)), expected)

        gaps |= _written(run, f"{stem}.pt2", write_program)
    return gaps


def _written(run: Run, name: str, write: Callable[[Path], list[float]]) -> dict[str, float]:
    """The file as an artifact and its gap; none, and a warning, if it could not be made."""
    path = run.dir / name
    try:
        gap = max(write(path))
        reason = None if gap <= programs.TOLERANCE else f"its answers differ by {gap:.1e}"
    except Exception as error:  # whatever torch's exporters raise on a net
        gap, reason = 0.0, f"{type(error).__name__}: {error}"[:300]
    if reason is None:
        run.artifact(name, role="export")
        return {name: gap}
    with suppress(FileNotFoundError):
        path.unlink()
    run.warn("not_exported", f"{name} could not be left: {reason}; the weights are not affected")
    return {}


def _on_cpu(net: nn.Module) -> nn.Module:
    """A copy in float32 and eval mode."""
    return copy.deepcopy(net).cpu().float().eval()


@torch.no_grad()
def _answers(net: nn.Module, x: Tensor) -> list[Tensor]:
    return _several(net(x))


def _several(answer: Any) -> list[Tensor]:
    return list(answer) if isinstance(answer, tuple | list) else [answer]


def _gaps(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> list[float]:
    return [programs.gap(a, b) for a, b in zip(actual, expected, strict=True)]
