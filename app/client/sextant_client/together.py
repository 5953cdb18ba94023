"""The calls about several jobs: pipelines, sweeps, webhooks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any

from sextant_client import waiting
from sextant_client.asking import Answer, Stream, create, json_of, listing, nothing, pages, text_of
from sextant_client.flow import Flow, Request


class TogetherCalls(ABC):
    """Calls that both clients inherit; each may raise :class:`sextant_client.ApiError`."""

    @abstractmethod
    def _run(self, flow: Flow[Any]) -> Answer:
        """Carry out a flow and give its result."""

    @abstractmethod
    def _iterate(self, flow: Flow[None]) -> Stream:
        """Carry out a flow and give what it emits, one by one."""

    def pipeline(
        self, jobs: Sequence[Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> Answer:
        """Store jobs that use each other's files, all or none.

        Args:
            jobs: requests, each with an ``id`` of its own; ``depends_on``, and ``job`` of a
                reference in a spec, may be the ``id`` of another.
            idempotency_key: as for :meth:`submit`.

        Returns:
            The job objects by these ids.
        """
        body = {"jobs": [dict(job) for job in jobs]}
        return self._run(_pipeline(body, idempotency_key))

    # -- sweeps ------------------------------------------------------------------------------

    def sweep(self, request: Mapping[str, Any], *, idempotency_key: str | None = None) -> Answer:
        """Store a sweep: ``job, parameters, seeds, objective, baseline, max_parallel``, ...

        Returns:
            The sweep object with all trials.
        """
        return self._run(create("/v1/sweeps", dict(request), idempotency_key))

    def sweeps(self, limit: int | None = None, **filters: Any) -> Stream:
        """Sweeps, newest first; ``status`` narrows them."""
        return self._iterate(pages("/v1/sweeps", filters, limit))

    def get_sweep(self, sweep_id: str) -> Answer:
        """The sweep object with its trials, the best first."""
        return self._run(json_of(Request("GET", f"/v1/sweeps/{sweep_id}")))

    def wait_sweep(
        self,
        sweep_id: str,
        *,
        on_change: Callable[[dict[str, Any]], None] | None = None,
        timeout_s: float = float("inf"),
    ) -> Answer:
        """Wait until the sweep has ended.

        Args:
            sweep_id: which sweep.
            on_change: is given the sweep object whenever it changed.
            timeout_s: how long to wait; the sweep itself goes on.

        Returns:
            The sweep object.

        Raises:
            ApiError: with code ``timeout`` after ``timeout_s``.
        """
        return self._run(waiting.wait_sweep(sweep_id, on_change, monotonic() + timeout_s))

    def sweep_report(self, sweep_id: str, form: str = "html") -> Answer:
        """The report as text: ``html``, ``csv`` or ``svg``."""
        return self._run(text_of(Request("GET", f"/v1/sweeps/{sweep_id}/report", {"format": form})))

    def cancel_sweep(self, sweep_id: str) -> Answer:
        """Make no more jobs of a sweep, and ask those that were made to stop."""
        return self._run(json_of(Request("POST", f"/v1/sweeps/{sweep_id}/cancel", json={})))

    def delete_sweep(self, sweep_id: str) -> Answer:
        """Forget a sweep that has ended; its jobs stay."""
        return self._run(nothing(Request("DELETE", f"/v1/sweeps/{sweep_id}")))

    # -- webhooks ----------------------------------------------------------------------------

    def create_webhook(self, url: str, *, progress: bool = False) -> Answer:
        """An address that is told of all jobs; the secret of its signatures is in this answer."""
        return self._run(create("/v1/webhooks", {"url": url, "progress": progress}))

    def webhooks(self) -> Answer:
        """All webhooks of the tenant, without their secrets."""
        return self._run(listing("/v1/webhooks"))

    def webhook_secret(self) -> Answer:
        """``secret`` of the messages to the field ``webhook`` of jobs."""
        return self._run(json_of(Request("GET", "/v1/webhook-secret")))

    def test_webhook(self, webhook_id: str) -> Answer:
        """Send a test now: ``delivered, status_code, error``."""
        return self._run(
            json_of(Request("POST", f"/v1/webhooks/{webhook_id}/test", json={}, read_s=45.0))
        )

    def deliveries(self, webhook_id: str, limit: int | None = None) -> Stream:
        """Messages to a webhook, newest first, and what became of them."""
        return self._iterate(pages(f"/v1/webhooks/{webhook_id}/deliveries", {}, limit))

    def resend(self, webhook_id: str, message_id: str) -> Answer:
        """Send a message once more."""
        path = f"/v1/webhooks/{webhook_id}/deliveries/{message_id}/resend"
        return self._run(json_of(Request("POST", path, json={})))

    def delete_webhook(self, webhook_id: str) -> Answer:
        """Delete a webhook."""
        return self._run(nothing(Request("DELETE", f"/v1/webhooks/{webhook_id}")))


def _pipeline(body: dict[str, Any], key: str | None) -> Flow[dict[str, Any]]:
    return (yield from create("/v1/pipelines", body, key))["jobs"]
