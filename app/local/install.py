"""The command that installs what is missing, as it fits this installation."""

import shlex
from pathlib import Path

DISTRIBUTION = "sextant-jobs"
ROOT = Path(__file__).resolve().parents[2]  # of a checkout, or the folder of all packages


def install_command(extra: str = "") -> str:
    """``pip install`` with an extra.

    Of the checkout that runs, with its tested versions; without one by the distribution's name.
    """
    extras = f"[{extra}]" if extra else ""
    if not (ROOT / "pyproject.toml").is_file():
        return f"pip install '{DISTRIBUTION}{extras}'"
    change = "" if Path.cwd() == ROOT else f"cd {shlex.quote(str(ROOT))} && "
    return f"{change}pip install -c constraints.txt -e '.{extras}'"
