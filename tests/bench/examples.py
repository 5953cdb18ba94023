"""What the example of each kind takes and gives, run as a worker runs it.

    python -m tests.bench.examples [KIND ...]      # all kinds: some 10 minutes on two cores

Writes ``tests/bench/results/examples_<cores>cores_<date>.json``: wall and CPU seconds of the
child, start included, its figures, its pictures.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.cli.follow import flat
from models.catalog import kinds

RESULTS = Path(__file__).parent / "results"


def measured(kind: str, folder: Path) -> dict[str, Any]:
    """Figures of one run of the example."""
    (folder / "spec.json").write_text(json.dumps(dict(kinds()[kind].example)))
    before, began = os.times(), time.monotonic()
    command = [sys.executable, "-m", "models", "run", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{kind}: {done.stderr[-2000:]}"
    after = os.times()
    cpu_s = sum(after[2:4]) - sum(before[2:4])
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    result = next((event for event in events if event["type"] == "result"), {})
    figures = {
        name: value for name, value in flat(result.get("values", {})) if isinstance(value, float)
    }
    return {
        "wall_s": round(time.monotonic() - began, 1),
        "cpu_s": round(cpu_s, 1),
        "figures": figures,
        "pictures": [e["name"] for e in events if e["type"] == "artifact" and e["role"] == "image"],
    }


def main() -> None:
    """Run the examples one after the other; the file grows with each."""
    target = RESULTS / f"examples_{os.cpu_count()}cores_{datetime.now(UTC):%Y-%m-%d}.json"
    found: dict[str, Any] = json.loads(target.read_text()) if target.is_file() else {}
    for kind in sys.argv[1:] or kinds():
        with tempfile.TemporaryDirectory(prefix="sx-example-") as scratch:
            load = os.getloadavg()[0]
            found[kind] = {"load_at_start": load, **measured(kind, Path(scratch))}
        target.write_text(json.dumps(found, indent=1) + "\n")
        print(kind, found[kind]["wall_s"], found[kind]["cpu_s"], flush=True)


if __name__ == "__main__":
    main()
