"""Keys, cookies, tokens and tenants of the page, without a browser."""

import re

import httpx
import pytest
import time_machine

from app.db.session import make_session
from app.db.tables import ApiKey, JobStatus, Tenant, utc_now
from app.errors import UnauthorizedError
from app.services import datasets, keys, logins
from tests.app.factories import add_job
from tests.conftest import fresh_caches
from tests.service import connect, serving
from tests.web.conftest import log_in, token_of
from tests.web.sample import SPEC, every_status

PAGES = ("/", "/jobs/{job}", "/jobs/{job}/state", "/jobs/{job}/files", "/stream")
READS = (
    *PAGES,
    "/jobs/{job}/series",
    "/jobs/{job}/log",
    "/jobs/{job}/files/curves.png",
    "/jobs/{job}/show/curves.png",
    "/jobs/{job}/preview/history.csv",
)
POSTS = {
    "/jobs/bulk": {"action": "delete", "jobs": ["{job}"]},
    "/jobs/{job}/cancel": {},
    "/jobs/{job}/delete": {},
    "/jobs/{job}/retry": {"from": "scratch"},
    "/new": {"spec": SPEC},
    "/new/check": {"spec": SPEC},
}


@pytest.fixture
def make_key(settings):
    """Make a key of some tenant and scopes; returns its secret form."""

    def make(*scopes: str, tenant_id: str = keys.DEFAULT_TENANT) -> str:
        with make_session() as session:
            if session.get(Tenant, tenant_id) is None:
                session.add(Tenant(id=tenant_id, name=tenant_id))
                session.flush()
            return keys.create(session, tenant_id, "test", list(scopes))[1]

    return make


@pytest.fixture
def enter(site):
    """Log in with a key: a client of its own."""
    opened = []

    def log_in_with(key: str) -> httpx.Client:
        client = connect(site, Accept="text/html")
        opened.append(client)
        assert log_in(client, key).status_code == 303
        return client

    yield log_in_with
    for client in opened:
        client.close()


def post(client, path, content, token=None):
    headers = {"X-CSRF-Token": token_of(client.get("/").text) if token is None else token}
    return client.post(path, json=content, headers=headers | {"Accept": "application/json"})


def test_without_a_login_every_page_leads_to_the_login_and_back(site):
    with connect(site, Accept="text/html") as client:
        answer = client.get("/?search=a b")
        assert answer.status_code == 303
        assert answer.headers["location"] == "/login?next=/%3Fsearch%3Da%2520b"
        assert client.get("/jobs/job_" + "0" * 32).status_code == 303
        assert client.get("/stream").status_code == 303
    with connect(site, Accept="application/json") as client:
        assert client.get("/").status_code == 401


def test_a_wrong_key_is_refused_and_a_right_one_gives_a_cookie_that_no_script_reads(
    site, admin_key
):
    with connect(site, Accept="text/html") as client:
        refused = log_in(client, "sx_nothing")
        assert refused.status_code == 401
        assert "this key is not known" in refused.text
        answer = log_in(client, f" {admin_key}\n")
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        set_cookies = answer.headers.get_list("set-cookie")
        for cookie in set_cookies:
            assert "HttpOnly" in cookie
            assert "SameSite=strict" in cookie
        assert not any(admin_key.rpartition("_")[2] in cookie for cookie in set_cookies)
        assert client.get("/").status_code == 200


@pytest.mark.parametrize("elsewhere", ["//evil.test/", "https://evil.test", "/\\evil.test"])
def test_a_login_leads_to_no_other_site(site, admin_key, elsewhere):
    with connect(site, Accept="text/html") as client:
        token = token_of(client.get("/login").text)
        fields = {"csrf_token": token, "key": admin_key, "next": elsewhere}
        assert client.post("/login", data=fields).headers["location"] == "/"


def test_a_login_ends_with_its_key_with_its_week_and_by_logging_out(site, enter, make_key):
    token = make_key("admin")
    client = enter(token)
    assert client.get("/").status_code == 200
    login = next(cookie.value for cookie in client.cookies.jar if "login" in cookie.name)
    with (
        time_machine.travel(utc_now().timestamp() + logins.LOGIN_S + 5),
        make_session(write=False) as session,
        pytest.raises(UnauthorizedError, match="has ended"),
    ):
        logins.verify(session, login)
    with make_session() as session:
        session.get_one(ApiKey, f"key_{token.split('_')[1]}").revoked_at = utc_now()
    assert client.get("/").status_code == 303
    other = enter(make_key("admin"))
    fields = {"csrf_token": token_of(other.get("/").text)}
    assert other.post("/logout", data=fields).headers["location"] == "/login"
    assert other.get("/").status_code == 303


def test_a_login_that_was_changed_is_worth_nothing(site, enter, make_key):
    ours, other = make_key("admin"), make_key("admin", tenant_id="tenant_b")
    client = enter(ours)
    cookie = next(c for c in client.cookies.jar if "login" in c.name)
    key_id, rest = cookie.value.split(".", 1)
    assert key_id == f"key_{ours.split('_')[1]}"
    for forged in (f"key_{other.split('_')[1]}.{rest}", f"{key_id}.9{rest}", "", "a.b.c", "é"):
        headers = {"Cookie": f"{cookie.name}={forged}".encode()}
        with connect(site, Accept="text/html") as client:
            assert client.get("/", headers=headers).status_code == 303


@pytest.mark.parametrize("path", POSTS)
def test_no_post_is_carried_out_without_the_token(site, visitor, path):
    job = add_job()
    body = {"jobs": [job], "action": "cancel"} if path == "/jobs/bulk" else POSTS[path]
    for token in ("", "0" * 64):
        assert post(visitor, path.format(job=job), body, token).status_code == 403
    form = visitor.post(path.format(job=job), data={"csrf_token": "0" * 64})
    assert form.status_code in (403, 415)
    assert visitor.get(f"/jobs/{job}").text.count("status queued") == 1


def test_the_token_of_another_browser_is_refused(site, enter, make_key):
    key = make_key("admin")
    first, second = enter(key), enter(key)
    job = add_job()
    stolen = token_of(first.get("/").text)
    assert post(second, f"/jobs/{job}/cancel", {}, stolen).status_code == 403
    assert post(first, f"/jobs/{job}/cancel", {}, stolen).status_code == 204


def test_another_tenant_sees_and_changes_nothing(enter, make_key, tmp_path):
    job = every_status(tmp_path)[JobStatus.SUCCEEDED]
    stranger = enter(make_key("admin", tenant_id="tenant_b"))
    assert "No jobs yet" in stranger.get("/").text
    for path in READS[1:]:
        if path != "/stream":
            assert stranger.get(path.format(job=job)).status_code == 404, path
    for path, body in POSTS.items():
        if path.startswith("/new"):
            continue  # it makes a job of its own
        body = {"action": "delete", "jobs": [job]} if path == "/jobs/bulk" else body
        answer = post(stranger, path.format(job=job), body)
        assert answer.status_code == 404 or answer.json()["done"] == 0, path


def test_a_key_that_only_reads_has_no_buttons_and_may_change_nothing(enter, make_key, tmp_path):
    job = every_status(tmp_path)[JobStatus.SUCCEEDED]
    reader = enter(make_key("jobs:read"))
    for path in ("/", f"/jobs/{job}"):
        assert not re.search(r"data-post=|data-bulk=\"(cancel|delete)", reader.get(path).text)
    for path, body in POSTS.items():
        body = {"action": "delete", "jobs": [job]} if path == "/jobs/bulk" else body
        assert post(reader, path.format(job=job), body).status_code == 403, path
    assert enter(make_key("datasets:read")).get("/").status_code == 403
    for path in ("/workers", "/datasets", "/new"):
        assert reader.get(path).status_code == 403
        assert f'href="{path}"' not in reader.get("/").text


def test_a_dataset_of_another_tenant_is_not_there(enter, make_key):
    with make_session() as session:
        datasets.create(session, keys.DEFAULT_TENANT, "ours", "npz", {}, None)
    stranger = enter(make_key("admin", tenant_id="tenant_b"))
    assert "Nothing uploaded yet" in stranger.get("/datasets").text
    token = token_of(stranger.get("/datasets").text)
    headers = {"X-CSRF-Token": token, "Accept": "application/json"}
    put = stranger.put("/datasets/ours/content", content=b"x", headers=headers)
    assert put.status_code == 404
    for action in ("finalize", "delete"):
        assert post(stranger, f"/datasets/ours/{action}", {}, token).status_code == 404


def test_policy(visitor, tmp_path):
    """Every page forbids what is not a file of ours, and no other site may frame it."""
    job = every_status(tmp_path)[JobStatus.SUCCEEDED]
    for path in ("/", "/login", f"/jobs/{job}", "/jobs/nothing"):
        headers = visitor.get(path).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == "'self'"
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
    report = visitor.get(f"/jobs/{job}/show/report.html").headers
    assert report["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert report["content-type"] == "text/html; charset=utf-8"


def test_what_browsers_could_run_is_only_downloaded(visitor, tmp_path):
    job = every_status(tmp_path)[JobStatus.SUCCEEDED]
    for name in ("weights.safetensors", "history.csv"):
        assert visitor.get(f"/jobs/{job}/show/{name}").status_code == 404
    sent = visitor.get(f"/jobs/{job}/files/report.html").headers
    assert sent["content-disposition"] == 'attachment; filename="report.html"'
    assert sent["content-type"] == "application/octet-stream"


def test_errors_are_pages_for_people_and_problems_for_scripts(visitor):
    absent = f"/jobs/job_{'0' * 32}"
    page = visitor.get(absent)
    assert page.status_code == 404
    assert "no job job_000" in page.text
    assert page.headers["content-type"].startswith("text/html")
    problem = visitor.get(absent, headers={"Accept": "application/json"})
    assert problem.headers["content-type"] == "application/problem+json"


def test_keys_off_needs_no_login(database_url, tmp_path, monkeypatch):
    monkeypatch.setenv("SEXTANT_DATABASE_URL", database_url)
    monkeypatch.setenv("SEXTANT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SEXTANT_AUTH_DISABLED", "true")
    fresh_caches()
    with serving() as url, connect(url, Accept="text/html") as client:
        assert "Log out" not in client.get("/").text
        assert client.get("/login").headers["location"] == "/"
        job = add_job()
        assert post(client, f"/jobs/{job}/cancel", {}, "0").status_code == 403
        assert post(client, f"/jobs/{job}/cancel", {}).status_code == 204
    fresh_caches()
