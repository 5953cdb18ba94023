"""Prepares the net of a spec for execution: plan, precision, batch size, progress."""

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
from models.saliency.net.outputs import meaning_of
from models.saliency.net.scores import Scorer, check_mode
from models.saliency.spec.map import Explanation

# Pixels per forward pass if ``batch`` is auto: 4 images of 224 x 224 per core, or 256 on a GPU. On
# a CPU larger batches no longer fit the caches and cost more per row.
AUTO_PIXELS = {"cpu": 4 * 224**2, "cuda": 256 * 224**2}
AUTO_MOST = 1024
FREE_SHARE = 0.5  # fraction of a GPU's free memory that a batch may use
PROGRESS_S = 0.1  # between two reports
TRACE_ROWS = 256  # fewer rows than this take less time than making a plan


class RowCounter:
    """Counts rows through the net; reports progress and checks for a stop after each batch."""

    def __init__(self, run: Run, total: int) -> None:
        self.run, self.total, self.done = run, total, 0
        self._lock, self._reported_at = threading.Lock(), 0.0

    def __call__(self, rows: int) -> None:
        """Add rows.

        Raises:
            StoppedError: if a stop was requested.
        """
        with self._lock:  # called by the threads of all cores
            self.done += rows
            now = time.monotonic()
            if now - self._reported_at >= PROGRESS_S or self.done >= self.total:
                self._reported_at = now
                self.run.progress(self.done, self.total, unit="row")
        self.run.check_stop()


def open_net(spec: Explanation, subject: Subject, rows: RowCounter) -> Scorer:
    """The net of a spec, with a plan if the job is long enough to benefit from one.

    Raises:
        SpecError: if the net is in training mode.
    """
    check_mode(subject.net)
    lower = _lower(subject.net) if spec.precision == "bf16" else None
    traced = spec.engine == "auto" and rows.total >= TRACE_ROWS
    plan = _plan_of(lower or subject.net, subject, rows.run) if traced else None
    meaning = meaning_of(subject.net, spec.output_type, spec.score, len(subject.classes))
    return Scorer(subject.net, spec.score, rows, plan, lower, meaning)


def _lower(net: nn.Module) -> nn.Module:
    lowered = copy.deepcopy(net).to(torch.bfloat16)
    return lowered.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]


def _plan_of(net: nn.Module, subject: Subject, run: Run) -> ExecutionPlan | None:
    """The net's plan; None, with a warning and its reason, if the net cannot be traced."""
    try:
        return trace(net, (subject.channels, *subject.size))
    except NotTraceableError as error:
        run.warn("net_not_traceable", f"the net runs as it is, several times slower: {error}")
        return None


def chunk_size(spec: Explanation, scorer: Scorer, size: tuple[int, int], device: str) -> int:
    """Images per forward pass: as requested, or a fixed number of pixels within free memory.

    Args:
        spec: of the job.
        scorer: of the net.
        size: height and width of the input.
        device: of the run.
    """
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
    """Context with the precision and the algorithm selection of a GPU that the spec requests.

    ``fp32`` means full float32 (no TF32) and algorithms by heuristics, so that a map depends
    neither on the batch size nor on timings. With the faster formats cuDNN benchmarks its
    algorithms, unless the spec is deterministic.
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
    """Largest difference of a score from that in float32; None if the spec requests float32."""
    if spec.precision == "fp32":
        return None
    exact = spec.model_copy(update={"precision": "fp32"})
    with arithmetic(exact):
        wanted = scorer.scores(scorer.net(images).double())
    return (scorer.scores(scorer.outputs(images)) - wanted).abs().max().item()
