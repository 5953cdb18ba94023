"""What a run may report at full speed, and how fast it may go on beyond."""

from app.services.child_lines import ArtifactLine, EventLine, Line, MetricLine
from app.settings import Settings

KIB = 1024
# beyond the quota, a second: what one run may cost its neighbours for as long as it lasts
PER_S = {"events": 50.0, "metrics": 1000.0, "artifacts": 10.0}


class Allowance:
    """A bucket that holds ``full`` and is refilled with ``per_s`` a second.

    A run that reports more slowly than the rate never empties it, however long it lasts.
    """

    def __init__(self, full: float, per_s: float, now: float) -> None:
        self._full, self._per_s = full, per_s
        self._left, self._at = full, now

    def take(self, amount: float, now: float) -> float:
        """Take ``amount``; seconds to wait before anything more is taken, 0 within the quota."""
        self._left = min(self._full, self._left + (now - self._at) * self._per_s) - amount
        self._at = now
        return max(0.0, -self._left / self._per_s)


class Allowances:
    """The three quotas of a run."""

    def __init__(self, settings: Settings, now: float) -> None:
        self.quotas = {
            "events": settings.quota_events,
            "metrics": settings.quota_metrics,
            "artifacts": settings.quota_artifacts,
        }
        self._buckets = {
            name: Allowance(full, PER_S[name], now) for name, full in self.quotas.items()
        }

    def take(self, lines: list[Line], now: float) -> dict[str, float]:
        """Count lines that were stored; seconds to wait for each quota that is used up."""
        amounts = dict.fromkeys(self._buckets, 0.0)
        for line in lines:
            if isinstance(line, MetricLine):
                amounts["metrics"] += len(line.values)
            elif isinstance(line, ArtifactLine):
                amounts["artifacts"] += 1
            elif isinstance(line, EventLine):
                amounts["events"] += max(1.0, line.size_bytes / KIB)
        waits = {name: self._buckets[name].take(amounts[name], now) for name in self._buckets}
        return {name: wait_s for name, wait_s in waits.items() if wait_s > 0}
