"""Webhooks: signed, tried again, sent by one, and never to an address of the inside."""

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from ipaddress import ip_address

import pytest
from sqlalchemy import select, update
from standardwebhooks import Webhook as Verifier

from app import calling
from app.db.session import database_now, make_session
from app.db.tables import Webhook, WebhookDelivery
from app.http import webhook_sender
from app.http.webhook_sender import send_due
from app.services import collection, jobs, lifecycle, outbox
from app.services.keys import DEFAULT_TENANT
from app.settings import get_settings
from tests.app.factories import add_job, carry_out, claim, finish

ONE_DATABASE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class Receiver(http.server.BaseHTTPRequestHandler):
    """Keeps what it gets and answers with the next status."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.got.append((dict(self.headers), body))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 204)
        self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()

    def log_message(self, *arguments) -> None:
        """Print nothing."""


@pytest.fixture(autouse=True)
def by_hand(monkeypatch) -> None:
    """The thread of the API sends nothing while a test does it itself."""
    monkeypatch.setattr(webhook_sender, "EVERY_S", 3600)


@pytest.fixture
def receiver() -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.got, server.statuses = [], []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def private(client, monkeypatch) -> None:
    """Addresses of this machine may be called."""
    monkeypatch.setenv("SEXTANT_WEBHOOK_PRIVATE", "true")
    get_settings.cache_clear()


@pytest.fixture
def webhook(client, receiver, private) -> dict:
    url = f"http://localhost:{receiver.server_port}/hook?a=1"
    answer = client.post("/v1/webhooks", json={"url": url})
    assert answer.status_code == 201, answer.text
    return answer.json()


def types(receiver) -> list[str]:
    return [json.loads(body)["type"] for _headers, body in receiver.got]


def rows() -> list[WebhookDelivery]:
    with make_session(write=False) as session:
        return [*session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id))]


def make_due(**values) -> None:
    with make_session() as session:
        due = {"next_try_at": database_now(session) - timedelta(seconds=1)}
        session.execute(update(WebhookDelivery).values(due | values))


def run_a_job() -> str:
    add_job(name="mine")
    run = claim()
    finish(run)
    return run.job_id


def test_start_and_end_arrive_signed_and_in_order(receiver, webhook):
    job_id = run_a_job()
    while send_due():
        pass
    assert types(receiver) == ["job.started", "job.succeeded"]
    for headers, body in receiver.got:
        sent = Verifier(webhook["secret"]).verify(body, headers)
        assert (sent["data"]["job"]["id"], sent["data"]["job"]["name"]) == (job_id, "mine")
    assert {row.status_code for row in rows()} == {204}
    assert send_due() == 0


def test_of_several_senders_one_sends(receiver, webhook):
    run_a_job()
    threads = [threading.Thread(target=send_due) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(receiver.got) == 2


@ONE_DATABASE
class TestTries:
    def test_a_failure_is_tried_again_under_the_same_id(self, receiver, webhook):
        receiver.statuses += [500]
        run_a_job()
        send_due()  # the second is not tried: it would most likely fail too
        assert [row.tries for row in rows()] == [1, 0]
        assert rows()[0].error.startswith("the address answered 500")
        make_due()
        send_due()
        assert types(receiver) == ["job.started", "job.started", "job.succeeded"]
        assert receiver.got[0][0]["webhook-id"] == receiver.got[1][0]["webhook-id"]

    def test_redirects_are_no_success_and_not_followed(self, receiver, webhook):
        receiver.statuses += [302]
        run_a_job()
        send_due()
        assert rows()[0].status_code == 302
        assert rows()[0].delivered_at is None

    def test_it_is_given_up_after_seven_tries_more(self, client, receiver, webhook):
        receiver.statuses += [500]
        run_a_job()
        make_due(tries=len(outbox.RETRIES_S))
        send_due()
        assert rows()[0].next_try_at is None
        path = f"/v1/webhooks/{webhook['id']}/deliveries"
        oldest = client.get(path).json()["data"][-1]
        assert (oldest["tries"], oldest["status_code"]) == (8, 500)
        assert client.post(f"{path}/{oldest['id']}/resend").status_code == 202
        make_due()
        send_due()
        assert rows()[0].delivered_at is not None

    def test_after_five_days_of_failures_it_is_disabled_until_a_test_arrives(
        self, client, receiver, webhook
    ):
        receiver.statuses += [500]
        run_a_job()
        with make_session() as session:
            before = database_now(session) - timedelta(days=6)
            session.execute(update(Webhook).values(failing_since=before))
        send_due()
        path = f"/v1/webhooks/{webhook['id']}"
        assert client.get("/v1/webhooks").json()["data"][0]["disabled_at"] is not None
        make_due()
        assert send_due() == 0
        assert client.post(f"{path}/deliveries/{rows()[0].id}/resend").status_code == 409
        run_a_job()
        assert len(rows()) == 2
        assert client.post(f"{path}/test").json()["delivered"] is True
        assert types(receiver)[-1] == "webhook.test"
        assert client.get("/v1/webhooks").json()["data"][0]["disabled_at"] is None

    def test_killed_while_it_sends_the_next_sends_it(self, receiver, webhook):
        run_a_job()
        with make_session() as session:
            assert len(outbox.take(session)) == 2
        assert send_due() == 0
        make_due()
        send_due()
        assert len(receiver.got) == 2

    def test_what_it_tells_of_may_be_deleted(self, receiver, webhook):
        job_id = run_a_job()
        with make_session() as session:
            jobs.delete(session, DEFAULT_TENANT, job_id)
        send_due()
        assert receiver.got == []
        assert {row.next_try_at for row in rows()} == {None}

    def test_an_answer_that_drips_is_cut_off(self, monkeypatch, private):
        monkeypatch.setattr(calling, "CALL_S", 0.3)
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"http://127.0.0.1:{server.getsockname()[1]}/"
            attempt = calling.call(url, "whsec_YWJj", "msg_1", "{}")
        assert not attempt.delivered

    def test_progress_is_told_on_request_and_once(self, client, receiver, webhook):
        url = f"http://127.0.0.1:{receiver.server_port}/more"
        client.post("/v1/webhooks", json={"url": url, "progress": True})
        add_job()
        run = claim()
        with make_session() as session:
            lifecycle.add_event(session, run.job_id, "progress", {"step": 1}, run)
        receiver.statuses += [204, 500, 500, 500]
        while send_due():
            pass
        assert [row.type for row in rows()].count("job.progress") == 1
        told = next(row for row in rows() if row.type == "job.progress")
        make_due()
        send_due()
        assert told.tries <= 1


@ONE_DATABASE
class TestAddresses:
    @pytest.mark.parametrize(
        "url",
        [
            "http://example.org/", "https://127.0.0.1/", "https://[::1]/", "https://10.0.0.1/",
            "https://169.254.169.254/", "https://[::ffff:127.0.0.1]/", "https://[64:ff9b::7f00:1]/",
            "https://user@example.org/", "https://example.org/#part", "https://[::1", "ftp://a/",
            "https://example.org:99999/", "https:///path", "https://VPw%P9j}x<(P)P", "https://a..b/",
            f"https://{'a' * 64}.org/", f"https://{'a.' * 127}org/", "https://[::zz]/", "https://a,b/",
        ],
    )  # fmt: skip
    def test_what_may_not_be_called_is_refused(self, client, url):
        answer = client.post("/v1/webhooks", json={"url": url})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "/url"

    def test_a_name_with_an_address_of_the_inside_is_refused_at_the_call(self, client, receiver):
        url = f"https://localhost:{receiver.server_port}/"
        made = client.post("/v1/webhooks", json={"url": url}).json()
        result = client.post(f"/v1/webhooks/{made['id']}/test").json()
        assert result["delivered"] is False
        assert "not public" in result["error"]
        assert receiver.got == []

    def test_the_secret_is_in_the_first_answer_alone(self, client, private):
        headers = {"Idempotency-Key": "once"}
        sent = {"url": "https://example.org/hook"}
        first, again = (
            client.post("/v1/webhooks", json=sent, headers=headers).json() for _ in range(2)
        )
        assert first["secret"].startswith("whsec_")
        assert again == {**first, "secret": None}
        listed = client.get("/v1/webhooks").json()["data"]
        assert [each.keys() & {"secret"} for each in listed] == [set()]

    def test_those_of_others_are_not_there(self, client, make_key, webhook):
        other = {"Authorization": f"Bearer {make_key('admin', tenant_id='tenant_other')}"}
        path = f"/v1/webhooks/{webhook['id']}"
        assert client.get("/v1/webhooks", headers=other).json()["data"] == []
        assert client.delete(path, headers=other).status_code == 404
        assert client.post(f"{path}/test", headers=other).status_code == 404
        assert client.get(f"{path}/deliveries", headers=other).status_code == 404
        writer = {"Authorization": f"Bearer {make_key('jobs:write')}"}
        assert client.get("/v1/webhooks", headers=writer).status_code == 403


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True), ("2606:2800:21f::1", True), ("192.168.1.1", False),
        ("100.64.0.1", False), ("240.0.0.1", False), ("224.0.0.1", False), ("fe80::1", False),
        ("fc00::1", False), ("::ffff:10.0.0.1", False), ("2002:a00:1::", False),
        ("64:ff9b::a00:1", False), ("64:ff9b::5db8:d70e", True), ("ff02::1", False),
    ],
)  # fmt: skip
def test_public_addresses(address, public):
    assert calling.is_public(ip_address(address)) is public


@ONE_DATABASE
class TestOneJob:
    def test_its_address_is_told_of_it_alone(self, client, receiver, private, spec):
        url = f"http://localhost:{receiver.server_port}/mine"
        job = client.post("/v1/jobs", json={"spec": spec, "webhook": url}).json()
        add_job()
        while send_due():
            pass
        assert client.get("/v1/webhooks").json()["data"] == []
        for _ in range(2):
            finish(claim())
        while send_due():
            pass
        assert types(receiver) == ["job.started", "job.succeeded"]
        secret = client.get("/v1/webhook-secret").json()["secret"]
        for headers, body in receiver.got:
            assert Verifier(secret).verify(body, headers)["data"]["job"]["id"] == job["id"]
        sent = client.get(f"/v1/webhooks/{job['webhook_id']}/deliveries").json()["data"]
        assert [each["job"] for each in sent] == [job["id"]] * 2
        again = client.post(f"/v1/jobs/{job['id']}/retry", json={"from": "scratch"}).json()
        assert again["webhook_id"] not in (None, job["webhook_id"])

    def test_a_refused_address_stores_no_job(self, client, spec):
        for path in ("/v1/jobs", "/v1/jobs?dry_run=true"):
            body = {"spec": spec, "webhook": "https://127.0.0.1/x"}
            answer = client.post(path, json=body)
            assert answer.status_code == 422
            assert answer.json()["errors"][0]["pointer"] == "/webhook"
        assert client.get("/v1/jobs").json()["data"] == []

    def test_it_goes_with_its_job(self, client, private, spec):
        url = "http://localhost:1/mine"
        job = client.post("/v1/jobs", json={"spec": spec, "webhook": url}).json()
        finish(claim())
        client.delete(f"/v1/jobs/{job['id']}")
        carry_out(collection.collect())
        with make_session(write=False) as session:
            assert session.scalars(select(Webhook)).all() == []
