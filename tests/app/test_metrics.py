"""Reading numbers: exact points, exact minimum and maximum of buckets, later runs."""

import csv
import json
import math
import time
from datetime import datetime

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import insert, text

from app.db.session import make_session
from app.db.tables import Metric, new_id, utc_now
from app.services import metrics
from app.services.keys import DEFAULT_TENANT
from tests.app.factories import add_job

TENANT = "ten_mine"


def add(job_id, name, values, run_number=1, tenant=TENANT):
    """Values by step; a string is a word for what is not finite."""
    rows = [
        {
            "job_id": job_id,
            "name": name,
            "step": step,
            "run_number": run_number,
            "tenant_id": tenant,
            "at": utc_now(),
            "value": None if isinstance(value, str) else value,
            "non_finite": value if isinstance(value, str) else None,
        }
        for step, value in values.items()
    ]
    with make_session() as session:
        session.execute(insert(Metric), rows)


def read(job_id, max_points, **more):
    with make_session(write=False) as session:
        return metrics.read(session, metrics.Query(TENANT, job_id, **more), max_points)


@pytest.fixture
def job_id(settings):
    return add_job(tenant_id=TENANT)


def test_short_series_are_exact(job_id):
    add(job_id, "loss", {1: 0.1, 5: 1 / 3, 9: "inf"})
    add(job_id, "acc", {5: 1.0})
    found = read(job_id, 3)
    assert [*found] == ["acc", "loss"]
    assert all(datetime.fromisoformat(str(point.at)).tzinfo for point in found["loss"])
    assert [point._replace(at=None) for point in found["loss"]] == [
        (1, 1, 1, 0.1, 0.1, 0.1, None, None),
        (5, 5, 1, 1 / 3, 1 / 3, 1 / 3, None, None),
        (9, 9, 1, None, None, None, "inf", None),
    ]
    assert [p.step for p in read(job_id, 3, from_step=5, to_step=8)["loss"]] == [5]
    assert [*read(job_id, 3, names=("acc", "none"))] == ["acc"]


@hypothesis_settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    values=st.dictionaries(
        st.integers(0, 5000) | st.integers(2**53 - 9, 2**53 - 1),
        st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(["nan", "inf"]),
        min_size=1,
        max_size=60,
    ),
    max_points=st.integers(1, 20),
)
def test_buckets_hold_exact_extremes_and_lose_nothing(settings, values, max_points):
    job_id = add_job(tenant_id=TENANT)
    name = new_id("m")
    add(job_id, name, values)
    points = read(job_id, max_points)[name]
    assert len(points) <= max_points
    assert sum(point.count for point in points) == len(values)
    last = -1
    for point in points:
        assert last < point.step <= point.last_step <= max(values)
        last = point.last_step
        inside = [v for s, v in values.items() if point.step <= s <= point.last_step]
        finite = [v for v in inside if not isinstance(v, str)]
        assert point.count == len(inside)
        assert point.min == (min(finite) if finite else None)
        assert point.max == (max(finite) if finite else None)
        assert (point.non_finite is None) == (len(finite) == len(inside))
        if len(finite) == len(inside) and max(map(abs, finite)) < 1e99:
            assert point.value == pytest.approx(math.fsum(finite) / len(finite), abs=1e86)


def test_buckets_of_a_range_hold_nothing_outside(job_id):
    add(job_id, "loss", {step: float(step) for step in range(100)})
    points = read(job_id, 7, from_step=10, to_step=52)["loss"]
    assert sum(point.count for point in points) == 43
    assert (points[0].min, points[-1].max, points[-1].last_step) == (10.0, 52.0, 52)


def test_the_later_run_wins_at_the_same_step(settings):
    job_id = add_job(tenant_id=TENANT, run_number=3)
    add(job_id, "loss", dict.fromkeys(range(1, 11), 1.0), run_number=1)
    add(job_id, "loss", dict.fromkeys(range(6, 9), 2.0), run_number=2)
    add(job_id, "loss", {7: 3.0}, run_number=3)
    expected = [1.0] * 5 + [2.0, 3.0, 2.0] + [1.0] * 2
    assert [point.value for point in read(job_id, 100)["loss"]] == expected
    buckets = read(job_id, 2)["loss"]
    assert [(b.min, b.max, b.count) for b in buckets] == [(1.0, 1.0, 5), (1.0, 3.0, 5)]
    exported = [p.value for _, p in metrics.export(metrics.Query(TENANT, job_id))]
    assert exported == expected


def test_export_pages_through_everything(job_id, monkeypatch):
    monkeypatch.setattr(metrics, "EXPORT_PAGE", 4)
    for name, count in (("a", 3), ("b", 4), ("c", 9)):
        add(job_id, name, {step: float(step) for step in range(count)})
    found = [(name, p.step) for name, p in metrics.export(metrics.Query(TENANT, job_id))]
    assert found == [(n, s) for n, count in (("a", 3), ("b", 4), ("c", 9)) for s in range(count)]


def test_another_tenant_sees_nothing(job_id):
    add(job_id, "loss", {1: 1.0})
    with make_session(write=False) as session:
        assert not metrics.read(session, metrics.Query("ten_other", job_id), 10)


@pytest.mark.bench
def test_a_million_points_as_a_thousand_buckets(job_id):
    with make_session() as session:
        insert_all = """
            WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 1000000)
            INSERT INTO metrics (job_id, name, step, run_number, tenant_id, at, value)
            SELECT :job, 'loss', n, 1, :tenant, :at, n * 0.1 FROM s"""
        at = utc_now().isoformat()
        session.execute(text(insert_all), {"job": job_id, "tenant": TENANT, "at": at})
    with make_session() as session:
        session.execute(text("ANALYZE metrics"))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        points = read(job_id, 1000)["loss"]
        times.append(time.perf_counter() - start)
    assert len(points) == 1000
    assert sum(point.count for point in points) == 1_000_000
    assert min(times) < 0.3  # on two idle cores


# -- the route -------------------------------------------------------------------------------


def test_formats(client):
    job_id = add_job()
    add(job_id, "loss", {1: 0.5, 2: "nan"}, tenant=DEFAULT_TENANT)
    add(job_id, "acc", {1: 1 / 3}, tenant=DEFAULT_TENANT)
    url = f"/v1/jobs/{job_id}/metrics"
    series = client.get(url).json()["series"]
    assert [point["step"] for point in series["loss"]] == [1, 2]
    assert series["loss"][1]["non_finite"] == "nan"
    assert [*client.get(url, params={"names": "acc"}).json()["series"]] == ["acc"]
    answer = client.get(url, params={"format": "csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    rows = [*csv.DictReader(answer.text.splitlines())]
    assert [(row["name"], row["step"], row["value"]) for row in rows] == [
        ("acc", "1", str(1 / 3)),
        ("loss", "1", "0.5"),
        ("loss", "2", ""),
    ]
    answer = client.get(url, params={"format": "ndjson", "max_points": 1})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [(line["name"], line["count"]) for line in lines] == [("acc", 1), ("loss", 2)]


@pytest.mark.parametrize(
    "query",
    [
        {"max_points": 0},
        {"max_points": 10_001},
        {"format": "xml"},
        {"from_step": 3, "to_step": 2},
        {"from_step": -1},
        {"names": ""},
        {"other": 1},
    ],
)
def test_wrong_queries(client, query):
    assert client.get(f"/v1/jobs/{add_job()}/metrics", params=query).status_code == 422


def test_a_foreign_job_has_no_metrics(client):
    job_id = add_job(tenant_id="ten_other")
    assert client.get(f"/v1/jobs/{job_id}/metrics").status_code == 404
