"""Mutants by hand: each stands for a kind that no operator makes, and that once lived."""

from typing import NamedTuple


class Replacement(NamedTuple):
    """A text of a file that occurs once in it, and what stands there instead."""

    path: str
    old: str
    new: str
    tests: str = ""  # where they are not those of the file's name

    def apply(self, source: str) -> str:
        """The file's text with the change.

        Raises:
            ValueError: if the text is not there exactly once.
        """
        if source.count(self.old) != 1:
            raise ValueError(f"{self.path}: {self.old!r} is there {source.count(self.old)} times")
        return source.replace(self.old, self.new)


NAMED = (
    Replacement(
        "app/services/lifecycle.py",
        "(Job.run_number == run.number, Job.lease_owner == run.worker_id)",
        "(Job.run_number == run.number,)",
    ),
    Replacement("models/data/images.py", "< 0.5 * augment.flip", "< 1.0 * augment.flip"),
    Replacement("models/data/images.py", "2 * p + 1, (2, b)", "2 * p, (2, b)"),
    Replacement(
        "models/supervised/steps.py",
        "decay if mode.weight_decay else 0.0",
        "decay",
        tests="tests/models/supervised/test_supervised_loop.py",
    ),
    Replacement(
        "app/services/workers.py",
        "- timedelta(hours=FORGET_AFTER_H)",
        "+ timedelta(hours=FORGET_AFTER_H)",
    ),
)
