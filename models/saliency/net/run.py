"""Opens the net of a spec for reading: its plan, number format, rows at once, progress."""

import copy
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.core.run import Run
from models.saliency.engine.plan import ExecutionPlan
from models.saliency.engine.trace import NotTraceableError, trace
from models.saliency.net.load import Subject
from models.saliency.net.scores import Scorer, check_mode
from models.saliency.spec.map import Explanation

# Pixels a forward pass where ``batch`` is auto: 4 images of 224 x 224 a core, or 256 on a GPU. On a
# CPU larger batches leave the caches and cost more a row.
AUTO_PIXELS = {"cpu": 4 * 224**2, "cuda": 256 * 224**2}
AUTO_MOST = 1024
FREE_SHARE = 0.5  # of a GPU's free memory that a batch may take
PROGRESS_S = 0.1  # between two reports
TRACE_ROWS = 256  # fewer rows than this are done before a plan is made


class RowCounter:
    """Counts rows through the net; after each batch reports progress and hears of a stop."""

    def __init__(self, run: Run, total: int) -> None:
        self.run, self.total, self.done = run, total, 0
        self._lock, self._reported_at = threading.Lock(), 0.0

    def __call__(self, rows: int) -> None:
        with self._lock:  # each core counts the rows of its own batches
            self.done += rows
            now = time.monotonic()
            if now - self._reported_at >= PROGRESS_S or self.done >= self.total:
                self._reported_at = now
                self.run.progress(self.done, self.total, unit="row")
        self.run.check_stop()


def open_net(spec: Explanation, subject: Subject, rows: RowCounter) -> Scorer:
    """The net of a spec, by its plan where the job is long enough to make one.

    Raises:
        SpecError: if the net is in training mode.
    """
    check_mode(subject.net)
    lower = _lower(subject.net) if spec.precision == "bf16" else None
    traced = spec.engine == "auto" and rows.total >= TRACE_ROWS
    plan = _plan_of(lower or subject.net, subject, rows.run) if traced else None
    return Scorer(subject.net, spec.score, rows, plan, lower)


def _lower(net: nn.Module) -> nn.Module:
    lowered = copy.deepcopy(net).to(torch.bfloat16)
    return lowered.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]


def _plan_of(net: nn.Module, subject: Subject, run: Run) -> ExecutionPlan | None:
    """The net's plan; None, with a warning that says why, where the net cannot be traced."""
    try:
        return trace(net, (subject.channels, *subject.size))
    except NotTraceableError as error:
        run.warn("net_not_traceable", f"the net runs as it is, several times slower: {error}")
        return None


def chunk_size(spec: Explanation, scorer: Scorer, size: tuple[int, int], device: str) -> int:
    """Images a forward pass: as asked, or a fixed number of pixels as far as memory allows."""
    if isinstance(spec.batch, int):
        return spec.batch
    kind = torch.device(device).type
    most = min(AUTO_MOST, AUTO_PIXELS[kind] // (size[0] * size[1]))
    if kind == "cuda" and scorer.plan is not None:
        free, _ = torch.cuda.mem_get_info()
        most = min(most, int(FREE_SHARE * free / scorer.plan.row_bytes(scorer.dtype.itemsize)))
    return max(1, most)


@contextmanager
def arithmetic(spec: Explanation) -> Generator[None]:
    """Number formats of a GPU and the choice of its algorithms, as the spec asks.

    Full float32 (no TF32) and heuristics in ``fp32``, so that a map depends neither on the batch
    size nor on timings; the faster formats also let cuDNN time its algorithms.
    """
    fast = spec.precision != "fp32"
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = spec.precision == "tf32"
    try:
        with (
            torch.no_grad(),
            torch.backends.cudnn.flags(
                benchmark=fast and not spec.deterministic,
                deterministic=spec.deterministic,
                allow_tf32=spec.precision == "tf32",
            ),
        ):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def precision_gap(
    scorer: Scorer, spec: Explanation, images: Float[Tensor, "n c h w"]
) -> float | None:
    """Largest difference of a score from the float32 net's; None where that is what runs."""
    if spec.precision == "fp32":
        return None
    exact = spec.model_copy(update={"precision": "fp32"})
    with arithmetic(exact):
        wanted = scorer.read(scorer.net(images).double())
    return (scorer.read(scorer.outputs(images)) - wanted).abs().max().item()
