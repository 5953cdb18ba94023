"""Known vulnerabilities of locked packages, by pip-audit; it says loudly what it could not ask.

python -m tests.packaging.audit requirements/api.txt ...      # make audit
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

TIMEOUT_S = 300
BEGIN = "!" * 80


def audit(path: Path) -> tuple[list[str], list[str]]:
    """Vulnerabilities of a file of locked packages, and those that nobody could be asked about."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(path), "--disable-pip"]
    command += ["--require-hashes", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return [], [f"{path}: no answer within {TIMEOUT_S} s"]
    return judged(path.name, done.stdout, done.stderr)


def judged(name: str, output: str, errors: str) -> tuple[list[str], list[str]]:
    """The same from what pip-audit wrote; without its JSON it did not reach its source."""
    try:
        packages: list[dict[str, Any]] = json.loads(output)["dependencies"]
    except ValueError:
        return [], [f"{name}: {(errors.strip().splitlines() or ['no answer'])[-1]}"]
    vulnerable = [
        f"{each['name']} {each['version']}: {flaw['id']}, mended in {flaw['fix_versions']}"
        for each in packages
        for flaw in each.get("vulns", [])
    ]
    return vulnerable, [each["skip_reason"] for each in packages if "skip_reason" in each]


def main(paths: list[str]) -> int:
    """0 if nothing is known against what could be asked about, else 1."""
    vulnerable, skipped = [], []
    for path in paths:
        some, others = audit(Path(path))
        vulnerable += some
        skipped += others
    lines = [*dict.fromkeys(vulnerable)]
    if skipped:
        text = f"SKIPPED: {len(skipped)} not audited, the source of pip-audit is out of reach;"
        lines += [BEGIN, f"{text} for example: {skipped[0]}", BEGIN]
    sys.stderr.write("".join(f"{line}\n" for line in lines or ["no known vulnerability"]))
    return int(bool(vulnerable))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
