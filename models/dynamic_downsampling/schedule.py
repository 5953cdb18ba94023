"""Which steps are cheap: deterministic and random schedules, decided before the run. Torch-free.

Steps count from 0 here. Random decisions come from a stream keyed by (seed, step), so they are the
same after a resume, on every rank, and leave data order and augmentation untouched.
"""

import hashlib
import math
from collections.abc import Sequence

from models.dynamic_downsampling.fields import Downsample, Schedule

ESTIMATE_STEPS = 100_000  # longer runs are estimated on a run of this length
_MASK = 2**64 - 1


def uniform(seed: int, step: int) -> float:
    """A number in [0, 1) that depends on (seed, step) alone: SplitMix64 of both, applied twice."""
    return (_mix(_mix(seed) ^ step) >> 11) / 2**53


def _mix(x: int) -> int:
    """The output function of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def decide(downsample: Downsample, total: int, per_epoch: int, seed: int) -> bytes:
    """The decision of every step of a run: 0 full, else 1 + index of its scale in ``scales``.

    Args:
        downsample: schedule, warm-up and refinement.
        total: steps of the run.
        per_epoch: steps of an epoch, at least 1 (``block`` counts in epochs).
        seed: of the random schedules.

    Returns:
        ``total`` bytes, one a batch; zero outside [warm-up, total - ceil(refine * total)). With
        ``cheap_batch_multiplier`` k cheap ones come in units of k batches (:func:`_in_units`).
    """
    start = math.floor(downsample.warmup_full_fraction * total)
    end = max(start, total - math.ceil(downsample.refine_fraction * total))
    decided = bytearray(total)
    decided[start:end] = _window(downsample, start, end, total, per_epoch, seed)
    size = downsample.cheap_batch_multiplier
    return bytes(_in_units(decided, range(start, end), per_epoch, size))


def _in_units(decided: bytearray, window: range, per_epoch: int, size: int) -> bytearray:
    """The same share of cheap batches, in units of ``size`` of which each is one step.

    An epoch is cut into units from its first batch on; what is left at its end stays full, and so
    do units that the window does not hold whole. By error diffusion, a unit is cheap when half of
    one or more is owed.
    """
    united, owed = bytearray(len(decided)), 0
    for epoch in range(0, len(decided), per_epoch):
        last = min(epoch + per_epoch, window.stop) - size
        for start in range(epoch, last + 1, size):
            if start < window.start:
                continue
            unit = decided[start : start + size]
            owed += size - unit.count(0)
            if 2 * owed >= size:  # so one of its batches is cheap, since less was owed before
                united[start : start + size] = bytes([max(unit)]) * size
                owed -= size
    return united


def _window(
    down: Downsample, start: int, end: int, total: int, per_epoch: int, seed: int
) -> list[int]:
    """Decisions of the steps from ``start`` to ``end`` (excluded)."""
    plan, steps = down.schedule, range(start, end)
    if plan.type == "periodic":
        return [_in_period(t - start, plan.n_cheap, plan.period, plan.cheap_first) for t in steps]
    if plan.type == "block":
        epochs = plan.n_cheap_epochs + plan.n_full_epochs
        return [
            _in_period((t - start) // per_epoch, plan.n_cheap_epochs, epochs, plan.cheap_first)
            for t in steps
        ]
    if plan.type == "list":
        parts = [(x.start * total, x.end * total, down.scale_of(x)) for x in plan.intervals]
        chosen = [next((scale for a, b, scale in parts if a <= t < b), None) for t in steps]
        return [0 if scale is None else 1 + down.scales.index(scale) for scale in chosen]
    chances = [_chance(plan, (t - start + 0.5) / (end - start)) for t in steps]
    if plan.type == "anneal" and plan.draw == "diffusion":
        return _diffuse(chances)
    return [uniform(seed, t) < p for t, p in zip(steps, chances, strict=True)]


def _in_period(t: int, n_cheap: int, period: int, cheap_first: bool) -> bool:
    return t % period < n_cheap if cheap_first else t % period >= period - n_cheap


def _chance(plan: Schedule, x: float) -> float:
    """Probability that a step at the relative position ``x`` of the window is cheap."""
    if plan.type == "bernoulli":
        return plan.cheap_share
    if plan.type == "off":
        return 0.0
    left = 1 - x if plan.shape == "linear" else (1 + math.cos(math.pi * x)) / 2
    return plan.p1 + (plan.p0 - plan.p1) * left


def _diffuse(chances: list[float]) -> list[int]:
    """Error diffusion: a step is cheap when the sum of the chances passes a half-integer."""
    decided, owed = [], 0.5
    for chance in chances:
        owed += chance
        cheap = owed >= 1
        owed -= cheap
        decided.append(cheap)
    return decided


def expected_shares(downsample: Downsample, total: int, per_epoch: int) -> list[float]:
    """Share of cheap batches of each scale, in [0, 1]; drawn schedules with seed 0.

    Long runs are counted in miniature.
    """
    scale, size = max(1.0, total / ESTIMATE_STEPS), downsample.cheap_batch_multiplier
    steps = round(total / scale)
    single = downsample.model_copy(update={"cheap_batch_multiplier": 1})
    decided = decide(single, steps, max(1, round(per_epoch / scale)), seed=0)
    whole = per_epoch // size * size / per_epoch  # what units leave over is full
    return [decided.count(1 + k) / steps * whole for k in range(len(downsample.scales))]


def mean_ratio(ratios: Sequence[float], batches: Sequence[float]) -> float:
    """Mean cost of a cheap batch over a full one.

    Args:
        ratios: of each scale.
        batches: of each scale, or their shares; the first ratio counts where all are 0.
    """
    known = [(ratio, count) for ratio, count in zip(ratios, batches, strict=True) if count]
    if not known:
        return ratios[0]
    return sum(ratio * count for ratio, count in known) / sum(count for _, count in known)


def digest(decisions: bytes) -> str:
    """SHA-256 of a run's decisions, in hex: two runs with the same one took the same steps."""
    return hashlib.sha256(decisions).hexdigest()
