"""Scores of batches of images, and checks that a net's output can be explained."""

from collections.abc import Callable, Hashable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from models.core.errors import DataError, SpecError
from models.saliency.engine.boxes import Regions
from models.saliency.engine.graphed import GraphedChanges
from models.saliency.engine.incremental import KEPT, BaseActivations, Changes, Filled, in_order
from models.saliency.engine.plan import ExecutionPlan
from models.saliency.net.outputs import Meaning, meaning_of

# from masks [n, h, w] and the image [c, h, w] to images [n, c, h, w] with the masks filled
Fill = Callable[[Tensor, Tensor], Tensor]
SUM_TOLERANCE = 1e-4  # of the sum of a row of probabilities
SATURATION = 1e-6  # distance from 1 below which a probability hides what happens to the logits
ROW_TOLERANCE = 1e-3  # relative to its range, of a row alone against the same row in a batch


class Scorer:
    """Runs a net in evaluation mode and gives probabilities, logits or log-probabilities.

    Args:
        net: gives one row of outputs for each image.
        kind: ``prob``, ``sigmoid``, ``logit`` (the outputs as they are) or ``logprob``.
        tick: called with the number of rows after each forward pass.
        plan: of the net, if it could be traced; replaces it in forward passes.
        lower: the net in a lower precision; replaces it, and is what ``plan`` was made from,
            wherever no gradient is needed.
        meaning: of the outputs; None: by the net's last operation.
    """

    def __init__(
        self,
        net: nn.Module,
        kind: Literal["prob", "sigmoid", "logit", "logprob"],
        tick: Callable[[int], None] | None = None,
        plan: ExecutionPlan | None = None,
        lower: nn.Module | None = None,
        meaning: Meaning | None = None,
    ) -> None:
        # Only gradients of images are needed. Those of weights would cost time and memory, and for
        # few channels run into oneDNN's issue 6035 (nets/spec.py).
        net.requires_grad_(requires_grad=False)
        self.net = net.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]
        self.kind, self.plan = kind, plan
        self.meaning = meaning or meaning_of(net, score=kind)
        forward = self.net if lower is None else lower
        self._run: Callable[[Tensor], Tensor] = forward if plan is None else plan
        self.dtype = dtype_of(forward)
        self._tick = tick
        self._changes: dict[Hashable, Changes] = {}
        self._graphs: dict[Hashable, GraphedChanges | None] = {}

    @torch.inference_mode()
    def outputs(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Outputs of the net, in float64."""
        images = images.to(self.dtype, memory_format=torch.channels_last)
        answer = self._fitting(images)
        self.tick(len(images))
        return answer.double()

    def _fitting(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Outputs of a batch, split in halves while it does not fit the memory of a GPU."""
        try:
            return self._run(images)
        except torch.OutOfMemoryError:
            if len(images) == 1:
                raise
        return torch.cat([self._fitting(part) for part in images.chunk(2)])

    @torch.inference_mode()
    def base(self, x: Float[Tensor, "c h w"]) -> BaseActivations:
        """All activations of an image by the plan.

        Raises:
            ValueError: if there is no plan.
        """
        return BaseActivations(self._planned(), x.to(self.dtype))

    def tick(self, rows: int) -> None:
        """Count rows that went through the net."""
        if self._tick is not None:
            self._tick(rows)

    @torch.inference_mode()
    def outputs_with_replaced(
        self,
        x: Float[Tensor, "c h w"],
        b: Tensor | Fill,
        key: Hashable,
        regions: Callable[[], Regions],
        base: Callable[[], BaseActivations],
        size: int,
    ) -> Float[Tensor, "n classes"]:
        """Outputs with the pixels of each region taken from ``b``, by the plan, in float64.

        Args:
            x: the image.
            b: the baseline image [c, h, w], or a function that fills regions.
            key: identifies the regions; their routes are kept for the next image.
            regions: builds the regions; called only if ``key`` is new.
            base: gives the activations of the image; not called if a graph computes them.
            size: regions per batch.
        """
        low = self._lowered(b, x)
        changes = self._changes.get(key)
        if changes is None:
            changes = self._changes[key] = Changes(self._planned(), regions(), size)
        elif isinstance(low, Tensor) and low.is_cuda and changes.regions.number <= KEPT:
            graph = self._graph(changes, x.to(self.dtype), low, key)
            if graph is not None:
                self.tick(changes.regions.number)
                return graph(x, low).double()
        out = []
        for index, outputs in changes.outputs(base(), low):
            self.tick(len(index))
            out.append((index, outputs.double()))
        return in_order(out)

    def _lowered(self, b: Tensor | Fill, x: Float[Tensor, "c h w"]) -> Tensor | Filled:
        """The baseline in the dtype of the net."""
        if isinstance(b, Tensor):
            return b.to(self.dtype)
        return lambda removed: b(removed, x).to(self.dtype)

    def _graph(
        self, changes: Changes, x: Tensor, b: Tensor, key: Hashable
    ) -> GraphedChanges | None:
        """The same outputs as a CUDA graph, captured at the second use; None if that fails."""
        if key not in self._graphs:
            try:
                self._graphs[key] = GraphedChanges(changes, x, b)
            except RuntimeError:
                self._graphs[key] = None
        return self._graphs[key]

    def _planned(self) -> ExecutionPlan:
        if self.plan is None:
            raise ValueError("values of an image need a plan of the net")
        return self.plan

    def scores(self, outputs: Float[Tensor, "n classes"]) -> Float[Tensor, "n classes"]:
        """Scores of all classes, from outputs of the net."""
        if self.kind == "logit":
            return outputs
        if self.kind != "logprob":
            return self._normalised(outputs)
        if self.meaning.applied:
            return outputs.clamp(min=torch.finfo(outputs.dtype).tiny).log()
        labels = self.meaning.kind == "labels"
        return functional.logsigmoid(outputs) if labels else outputs.log_softmax(1)

    def _normalised(self, outputs: Float[Tensor, "n classes"]) -> Float[Tensor, "n classes"]:
        """A softmax or sigmoid of the outputs, unless the net ends in one."""
        if self.meaning.applied:
            return outputs
        return outputs.sigmoid() if self.meaning.kind == "labels" else outputs.softmax(1)

    def probabilities(
        self, outputs: Float[Tensor, "n classes"]
    ) -> Float[Tensor, "n classes"] | None:
        """Probabilities, whatever the score, of classes or of labels each for itself.

        None for numbers of a regression, which have none.
        """
        if self.meaning.kind == "regression":
            return None
        if self.meaning.kind == "classes" and _are_probabilities(outputs):
            return outputs
        return self._normalised(outputs)

    def saturated(self, scores: Float[Tensor, "k"]) -> Bool[Tensor, "k"]:
        """Whether scores are probabilities so near to 1 that small changes of logits vanish."""
        if self.kind not in ("prob", "sigmoid"):
            return torch.zeros_like(scores, dtype=torch.bool)
        return scores > 1 - SATURATION


def check_mode(net: nn.Module) -> None:
    """Refuse a net in training mode, before its first forward pass.

    Raises:
        SpecError: if any part of the net is in training mode.
    """
    for name, module in net.named_modules():
        if module.training:
            raise SpecError(
                f"model: part {name or 'net'!r} ({type(module).__name__}) is in training mode, so "
                "that a score would change from pass to pass",
                hint="put the net into evaluation mode before it is saved or loaded",
            )


def probe(scorer: Scorer, x: Float[Tensor, "c h w"]) -> None:
    """Refuse a net whose rows depend on their batch or on chance, or a second softmax.

    Runs ``x`` on its own, then ``x``, its negative and ``x`` again as one batch: four rows.

    Raises:
        SpecError: with the cause and a remedy.
    """
    alone = scorer.outputs(x[None])[0]
    if alone.ndim != 1:
        raise SpecError(
            f"model: the net gives an output of shape {tuple(alone.shape)} for an image; saliency "
            "needs one number a class"
        )
    if not alone.isfinite().all():
        raise SpecError(
            "model: the net gives NaN or infinity for the first image",
            hint="check its weights and model.input (mean, std); in bf16, try precision fp32",
        )
    first, _, last = scorer.outputs(torch.stack([x, -x, x]))
    gap = max((first - alone).abs().max(), (last - first).abs().max()).item()
    allowed = ROW_TOLERANCE * (1e-6 + (alone.max() - alone.min()).item())
    if not gap <= allowed:
        raise SpecError(
            f"model: the output of an image changes by {gap:.3g} (allowed {allowed:.1g}) with the "
            "rest of its batch or from pass to pass: dropout or batch statistics are at work",
            hint="explain a net whose output depends on the image alone",
        )
    classes = len(alone) > 1 and not scorer.meaning.applied
    if scorer.kind != "logit" and classes and _are_probabilities(alone[None]):
        function = "sigmoid" if scorer.kind == "sigmoid" else "softmax"
        raise SpecError(
            f"score: {scorer.kind!r} would apply a {function}, but the net's outputs are "
            "probabilities already (non-negative, sum 1)",
            hint="use output_type 'probabilities', or score 'logit', which read them as they are",
        )


def check_finite(values: Float[np.ndarray, "*shape"], name: str) -> None:
    """Refuse a map with values that JSON, graders and pictures cannot represent.

    Raises:
        DataError: if a value is NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise DataError(
            f"{name}: the net gives NaN or infinity for some perturbed images",
            hint="use a milder baseline, score 'logit' instead of 'logprob', or precision fp32",
        )


def _are_probabilities(outputs: Float[Tensor, "n classes"]) -> bool:
    return bool((outputs >= 0).all() and ((outputs.sum(1) - 1).abs() < SUM_TOLERANCE).all())


def dtype_of(net: nn.Module) -> torch.dtype:
    """Dtype of the net's floating-point weights; float32 for a net without any."""
    numbers = (p.dtype for p in (*net.parameters(), *net.buffers()) if p.is_floating_point())
    return next(numbers, torch.float32)
