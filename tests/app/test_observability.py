"""Rules and board of operators: their numbers are those of /metrics, their queries parse."""

import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from app.db.session import make_session
from app.services import counters, workers
from tests.app.factories import add_job, finish, start_run

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"
RULES = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
BOARD = json.loads((DEPLOY / "grafana/sextant.json").read_text())
QUERIES = [
    *(rule["expr"] for rule in RULES),
    *(target["expr"] for panel in BOARD["panels"] for target in panel["targets"]),
]
OF_PROMETHEUS = {"up"}  # it notes itself whether a target answers


def parsed(query: str) -> promql_parser.Expr:
    return promql_parser.parse(query.replace("$__rate_interval", "5m"))


def selectors(node: Any) -> list[promql_parser.VectorSelector]:
    """Every selector below a node of a parsed query."""
    if isinstance(node, promql_parser.VectorSelector):
        return [node]
    names = ("expr", "lhs", "rhs", "vector_selector", "param")
    inner = [getattr(node, name, None) for name in names] + list(getattr(node, "args", []) or [])
    return [each for one in inner if one is not None for each in selectors(one)]


@pytest.fixture
def samples(client) -> dict[str, set[str]]:
    """Names of the samples of /metrics with the labels that they have, of a service at work."""
    start_run()
    finish(start_run())
    add_job()
    with make_session() as session:
        workers.beat(
            session,
            "w1",
            host="here",
            boot_id="b1",
            pid=1,
            queues=["default"],
            gpus=[],
            slots=1,
            slots_free=1,
            versions={},
            draining=False,
        )
    client.get("/healthz")
    text = client.get("/metrics").text
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? ", text, re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def test_every_number_is_one_that_the_service_gives(samples):
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    for query in QUERIES:
        used = selectors(parsed(query))
        assert used, query
        for selector in used:
            known = samples.get(selector.name)
            assert known is not None or selector.name in recorded | OF_PROMETHEUS, selector.name
            labels = {matcher.name for matcher in selector.matchers.matchers}
            assert labels <= (known or set()) | {"job", "instance"}, query


def test_what_is_running_is_counted_by_queue(samples, client):
    text = client.get("/metrics").text
    assert 'jobs_running{queue="default"} 1.0' in text
    assert 'jobs_queue_depth{queue="default"} 1.0' in text
    with make_session(write=False) as session:
        assert counters.read(session, counters.RUNS) == {("succeeded",): 1}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_is_whole(rule):
    assert parsed(rule["expr"]).prettify()
    if "record" in rule:
        assert set(rule) == {"record", "expr"}
        assert re.fullmatch(r"[a-z_]+:[a-z_]+(:\w+)?", rule["record"])
        return
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"]["summary"]
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))


def test_the_board_has_what_grafana_needs():
    assert {"uid", "title", "schemaVersion", "panels", "templating", "time"} <= set(BOARD)
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, f"{panel['title']} lies over another"
        taken |= cells
        assert panel["type"] in ("stat", "timeseries")
        assert panel["datasource"]["uid"] == "${datasource}"
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
