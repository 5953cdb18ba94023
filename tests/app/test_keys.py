"""Keys: secret once, hashed, scoped, expiring, revocable; no key, no answer."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from app.db.session import make_session
from app.db.tables import ApiKey, IdempotencyKey, utc_now
from app.http import auth
from app.services import keys, pepper
from app.settings import get_settings

TOKEN = re.compile(r"^sx_[0-9a-f]{32}_[0-9A-Za-z]{43}$")
FAR = "2099-01-01T00:00:00Z"


def with_key(token: str) -> dict:
    return {"Authorization": f"Bearer {token}"}


def create(client, **body) -> dict:
    answer = client.post("/v1/keys", json={"name": "k", "scopes": ["jobs:read"]} | body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_secret_is_answered_once_and_never_stored(client):
    made = create(client, expires_at=FAR)
    assert TOKEN.match(made["key"])
    listed = client.get("/v1/keys").json()["data"]
    assert [row["name"] for row in listed] == ["k", "admin"]
    assert listed[0]["expires_at"] == FAR
    secret = made["key"].rpartition("_")[2]
    assert secret not in client.get("/v1/keys").text
    with make_session(write=False) as session:
        row = session.get_one(ApiKey, made["id"])
        assert secret not in row.key_hash
        assert len(row.key_hash) == 64
    assert client.get("/v1/jobs", headers=with_key(made["key"])).status_code == 200


def test_a_repeated_post_does_not_repeat_the_secret(client):
    send = {"json": {"name": "k", "scopes": ["admin"]}, "headers": {"Idempotency-Key": "one"}}
    first, second = client.post("/v1/keys", **send).json(), client.post("/v1/keys", **send).json()
    assert TOKEN.match(first["key"])
    assert second == first | {"key": None}
    with make_session(write=False) as session:
        assert first["key"] not in str(session.scalars(select(IdempotencyKey)).one().body)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer x",
        "Bearer sx_",
        "Basic YTpi",
        f"Bearer sx_{'0' * 32}_{'a' * 43}",
        "Bearer key_none",
    ],
)
def test_without_a_valid_key(anonymous, admin_key, header):
    answer = anonymous.get("/v1/jobs", headers={"Authorization": header} if header else {})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.json()["code"] == "unauthorized"


def test_a_changed_secret_is_refused(anonymous, admin_key):
    wrong = admin_key[:-1] + ("a" if admin_key[-1] != "a" else "b")
    assert anonymous.get("/v1/jobs", headers=with_key(wrong)).status_code == 401
    assert anonymous.get("/v1/jobs", headers=with_key(admin_key)).status_code == 200


def test_another_pepper_ends_all_keys(anonymous, admin_key, monkeypatch):
    monkeypatch.setenv("SEXTANT_AUTH_PEPPER", "other")
    get_settings.cache_clear()
    assert anonymous.get("/v1/jobs", headers=with_key(admin_key)).status_code == 401


def test_scopes(client, make_key, spec):
    reader = with_key(make_key("jobs:read"))
    assert client.get("/v1/jobs", headers=reader).status_code == 200
    answer = client.post("/v1/jobs", json={"spec": spec}, headers=reader)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert "jobs:write" in answer.json()["detail"]
    assert client.get("/v1/keys", headers=reader).status_code == 403
    writer = with_key(make_key("jobs:write"))
    assert client.post("/v1/jobs", json={"spec": spec}, headers=writer).status_code == 201
    assert client.get("/v1/jobs", headers=writer).status_code == 403


def test_expiry(client, make_key):
    old = make_key("jobs:read", expires_at=utc_now() + timedelta(hours=1))
    with make_session() as session:
        session.execute(
            update(ApiKey)
            .where(ApiKey.expires_at.is_not(None))
            .values(expires_at=utc_now() - timedelta(seconds=1))
        )
    answer = client.get("/v1/jobs", headers=with_key(old))
    assert answer.status_code == 401
    assert "expired" in answer.json()["detail"]


def test_a_key_that_has_expired_already_is_not_made(client):
    past = "2020-01-31T12:00:00Z"
    body = {"name": "k", "scopes": ["jobs:read"], "expires_at": past}
    answer = client.post("/v1/keys", json=body)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"] == "/expires_at"
    assert past in error["detail"]
    assert [row["name"] for row in client.get("/v1/keys").json()["data"]] == ["admin"]


def test_revoke(client):
    made = create(client)
    url = f"/v1/keys/{made['id']}"
    assert client.get("/v1/jobs", headers=with_key(made["key"])).status_code == 200
    assert [client.delete(url).status_code for _ in range(2)] == [204, 204]
    time.sleep(auth.RECENT_S)
    assert client.get("/v1/jobs", headers=with_key(made["key"])).status_code == 401
    assert client.get("/v1/keys").json()["data"][0]["revoked_at"] is not None


def test_nobody_locks_himself_out(client):
    own = client.get("/v1/keys").json()["data"][0]["id"]
    assert client.delete(f"/v1/keys/{own}").status_code == 409


def test_foreign_keys_do_not_exist(client, make_key):
    made = create(client)
    client.headers |= with_key(make_key("admin", tenant_id="tenant_b"))
    assert client.delete(f"/v1/keys/{made['id']}").status_code == 404
    assert len(client.get("/v1/keys").json()["data"]) == 1


def test_pages_of_keys(client):
    for number in range(3):
        create(client, name=str(number))
    page = client.get("/v1/keys?limit=3").json()
    assert [row["name"] for row in page["data"]] == ["2", "1", "0"]
    rest = client.get(f"/v1/keys?limit=3&cursor={page['next_cursor']}").json()
    assert [row["name"] for row in rest["data"]] == ["admin"]


def test_last_use_is_noted_once_a_minute(client, make_key):
    token = make_key("jobs:read")
    key_id = f"key_{token.split('_')[1]}"

    def used():
        with make_session(write=False) as session:
            return session.get_one(ApiKey, key_id).last_used_at

    assert used() is None
    client.get("/v1/jobs", headers=with_key(token))
    first = used()
    assert abs(utc_now() - first) < timedelta(seconds=30)
    client.get("/v1/jobs", headers=with_key(token))
    assert used() == first
    with make_session() as session:
        session.get_one(ApiKey, key_id).last_used_at = first - timedelta(seconds=61)
    time.sleep(auth.RECENT_S)
    client.get("/v1/jobs", headers=with_key(token))
    assert used() > first


def test_first_start_writes_a_private_file(session, settings):
    token = keys.ensure_admin_key(session)
    path = settings.state_dir / "admin.key"
    assert path.read_text().strip() == token
    assert path.stat().st_mode & 0o777 == 0o600
    assert keys.ensure_admin_key(session) is None
    assert path.read_text().strip() == token


def test_pepper_is_made_once_by_many(settings):
    pepper._pepper_file.cache_clear()
    path = settings.state_dir / "pepper"
    with ThreadPoolExecutor(8) as threads:
        made = {*threads.map(lambda _: pepper._pepper_file.__wrapped__(path), range(32))}
    assert len(made) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in settings.state_dir.iterdir()] == ["pepper"]


def test_disabled(anonymous, spec, monkeypatch):
    assert anonymous.post("/v1/jobs", json={"spec": spec}).status_code == 401
    monkeypatch.setenv("SEXTANT_AUTH_DISABLED", "true")
    get_settings.cache_clear()
    with make_session() as session:
        keys.ensure_tenant(session)
    assert anonymous.post("/v1/jobs", json={"spec": spec}).status_code == 201
    assert anonymous.get("/v1/keys").status_code == 200


def test_a_read_is_answered_while_the_use_of_its_key_cannot_be_written(client, monkeypatch):
    def locked(**_more):
        raise OperationalError("BEGIN IMMEDIATE", None, Exception("database is locked"))

    monkeypatch.setattr("app.services.keys.make_session", locked)
    assert client.get("/v1/jobs").status_code == 200
