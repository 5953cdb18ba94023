"""Generated requests, wrong ones included, against every operation of the OpenAPI document."""

import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, from_schema
from schemathesis.engine.events import FatalError, NonFatalError, ScenarioFinished

from app.db.session import make_session
from app.main import create_app
from app.services import keys

# A body that fits the schema may still name a dataset or job that does not exist (422), or be
# too early or too late for its job or dataset (409), or about another version of it (412): no
# schema can say so.
ACCEPTED = ["2xx", "304", "404", "409", "412", "416", "422"]
NUMBERS = itertools.count()
KEY_CHARS = 100  # what is longer may be meant to be too long
PHASES = [("examples", "coverage"), ("fuzzing",), ("stateful",)]
WITH_SPECS = ("POST /v1/jobs", "POST /v1/pipelines", "POST /v1/sweeps")


def before_call(_context: Any, case: schemathesis.Case, _options: dict[str, Any]) -> None:
    """Send no key of idempotency twice: its first answer may name what is deleted since."""
    key = (case.headers or {}).get("Idempotency-Key")
    if key and len(key) <= KEY_CHARS:
        case.headers["Idempotency-Key"] = f"{key}{next(NUMBERS)}"


def run(examples: int, phases: list[str], left_out: Iterable[str]) -> tuple[Counter, list[str]]:
    """Requests of each operation but those left out, and everything that was found."""
    with make_session() as session:  # a key of its own: an earlier phase may have made the first
        keys.ensure_tenant(session)
        key = keys.create(session, keys.DEFAULT_TENANT, f"contract {next(NUMBERS)}", ["admin"])[1]
    config = SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "headers": {"Authorization": f"Bearer {key}"},
            # else a request may rightly take a minute, or as long as a job that nobody runs
            "parameters": {"query.wait_s": 0, "query.follow": False},
            "generation": {"max-examples": examples, "deterministic": True, "database": "none"},
            "checks": {"positive_data_acceptance": {"expected-statuses": ACCEPTED}},
            "phases": {
                name: {"enabled": name in phases}
                for name in ("examples", "coverage", "fuzzing", "stateful")
            },
        }
    )
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(), config=config)
    for verb, path in (label.split() for label in left_out):
        schema = schema.exclude(method=verb, path=path)
    seen: Counter = Counter()
    found: list[str] = []
    for event in from_schema(schema).execute():
        if isinstance(event, FatalError):
            raise event.exception
        if isinstance(event, NonFatalError):
            found.append(str(event.info))
        elif isinstance(event, ScenarioFinished):
            seen[event.label] += len(event.recorder.cases)
            found += _failures(event)
    return seen, found


def _failures(event: ScenarioFinished) -> list[str]:
    return [
        f"{event.label}: {check.name}: {info.failure}\n{info.code_sample}"
        for checks in event.recorder.checks.values()
        for check in checks
        if check.status == Status.FAILURE and (info := check.failure_info)
    ]


def assert_sound(examples: int, *phases: str, left_out: Iterable[str] = ()) -> Counter:
    if "coverage" not in phases:  # of a changed request it would not know what it lacks
        schemathesis.hook(before_call)
    try:
        seen, found = run(examples, list(phases), left_out)
    finally:
        schemathesis.hooks.unregister_all()
    assert not found, f"{len(found)} findings\n\n" + "\n\n".join(found[:20])
    return seen


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("phases", PHASES)
def test_contract(settings, phases):
    """Zero server errors, zero undocumented answers, nothing wrong accepted."""
    # every value of every field of every kind makes 16,000 bodies: here those of the fuzzer only
    seen = assert_sound(5, *phases, left_out=WITH_SPECS if "coverage" in phases else ())
    assert sum(seen.values()) > 30
    if phases == ("fuzzing",):
        operations = {
            f"{verb.upper()} {path}"
            for path, item in create_app().openapi()["paths"].items()
            for verb in item
        }
        assert operations <= set(seen)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_contract_at_length(settings):
    """The same on both databases, with more of everything."""
    for phases in PHASES:
        assert_sound(100, *phases)
