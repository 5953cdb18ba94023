"""Which changes of the code no test notices: a random sample of mutants, or those by hand.

    python -m tests.mutation --count 200        # make mutants; writes the report
    python -m tests.mutation --count 0          # those by hand

Each mutant runs, in a copy of the checkout, the tests of its module on SQLite until the first that
fails. A failure counts only where the same test passes without the change. Writes
``tests/bench/results/mutation_<date>.json``, or ``mutation_by_hand_<date>.json``; docs/mutation.md
says how to read it.
"""

import argparse
import difflib
import json
import subprocess
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.mutation.cover import modules, tests_of
from tests.mutation.mutants import Mutant, sample
from tests.mutation.named import NAMED, Replacement
from tests.mutation.trial import Trial, preload

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "tests" / "bench" / "results"


def main() -> None:
    """Try the mutants and write the report after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="mutants of the sample")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for a mutant's tests")
    arguments = parser.parse_args()
    drawn = sample(ROOT, modules(ROOT), arguments.count, arguments.seed) if arguments.count else []
    report = {
        "what": f"python -m tests.mutation --count {arguments.count} --seed {arguments.seed}",
        "commit": _git("rev-parse", "--short", "HEAD").strip(),
        "date": datetime.now(UTC).date().isoformat(),
        "limit_s": arguments.limit,
    }
    name_of_file = "mutation" if drawn else "mutation_by_hand"
    preload()
    with tempfile.TemporaryDirectory(prefix="sx-mutants-") as name:
        copy = Path(name)
        _copy_to(copy)
        tried: list[dict[str, Any]] = []
        for mutant in drawn or NAMED:
            tried.append(_try(mutant, copy, arguments.limit))
            print(json.dumps(tried[-1]), flush=True)
            _write(name_of_file, report | {"outcomes": _counts(tried), "mutants": tried})


def _git(*words: str) -> str:
    command = ["git", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def _copy_to(folder: Path) -> None:
    for name in _git("ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())


def _try(mutant: Mutant | Replacement, copy: Path, limit_s: float) -> dict[str, Any]:
    named = mutant.tests.split() if isinstance(mutant, Replacement) else []
    tests = named or tests_of(mutant.path)
    file = copy / mutant.path
    before = file.read_text()
    after = mutant.apply(before)
    told = {"path": mutant.path, "by": getattr(mutant, "operator", "hand")} | _change(before, after)
    try:
        file.write_text(after)
        ended = Trial(copy, tests).run(limit_s)
    finally:
        file.write_text(before)
    if ended.failed and not Trial(copy, [ended.failed]).run(limit_s).passed:
        return told | {"outcome": "unclear", "test": ended.failed, "seconds": ended.seconds}
    return told | {"outcome": ended.outcome, "test": ended.failed, "seconds": ended.seconds}


def _change(before: str, after: str) -> dict[str, Any]:
    lines = [*difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)]
    number = int(lines[2].split()[1].lstrip("-").partition(",")[0])
    old = [line[1:].strip() for line in lines[3:] if line.startswith("-")]
    new = [line[1:].strip() for line in lines[3:] if line.startswith("+")]
    return {"line": number, "before": " ".join(old), "after": " ".join(new)}


def _counts(tried: list[dict[str, Any]]) -> dict[str, int]:
    return dict(Counter(each["outcome"] for each in tried))


def _write(name: str, report: dict[str, Any]) -> None:
    (RESULTS / f"{name}_{report['date']}.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
