"""The calls about several jobs: pipelines, sweeps, webhooks."""

from __future__ import annotations  # so that help() names types in short

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Literal, Unpack

from sextant_client import waiting
from sextant_client.answers import (
    DeliveryRead,
    JobRead,
    SweepDetail,
    SweepRead,
    WebhookCreated,
    WebhookRead,
    WebhookSecret,
    WebhookTestRead,
)
from sextant_client.asking import create, json_of, listing, nothing, pages, text_of
from sextant_client.calling import Call, Stream
from sextant_client.flow import Emits, Flow, Request
from sextant_client.requests import PipelineJob, SweepCreate, SweepFilters


class TogetherCalls:
    """Calls that both clients inherit; each may raise :class:`sextant_client.ApiError`."""

    @Call
    def pipeline(
        self, jobs: Sequence[PipelineJob], *, idempotency_key: str | None = None
    ) -> Flow[dict[str, JobRead]]:
        """Store jobs that use each other's files, all or none.

        Args:
            jobs: requests, each with an ``id`` of its own; ``depends_on``, and ``job`` of a
                reference in a spec, may be the ``id`` of another.
            idempotency_key: as for :meth:`submit`.

        Returns:
            The job objects by these ids.
        """
        body = {"jobs": [dict(job) for job in jobs]}
        return _pipeline(body, idempotency_key)

    # -- sweeps ------------------------------------------------------------------------------

    @Call
    def sweep(
        self, request: SweepCreate, *, idempotency_key: str | None = None
    ) -> Flow[SweepDetail]:
        """Store a sweep: ``job, parameters, seeds, objective, baseline, max_parallel``, ...

        Returns:
            The sweep object with all trials.
        """
        return create("/v1/sweeps", dict(request), idempotency_key)

    @Stream
    def sweeps(self, limit: int | None = None, **filters: Unpack[SweepFilters]) -> Emits[SweepRead]:
        """Sweeps, newest first; ``status`` narrows them."""
        return pages("/v1/sweeps", filters, limit)

    @Call
    def get_sweep(self, sweep_id: str) -> Flow[SweepDetail]:
        """The sweep object with its trials, the best first."""
        return json_of(Request("GET", f"/v1/sweeps/{sweep_id}"))

    @Call
    def wait_sweep(
        self,
        sweep_id: str,
        *,
        on_change: Callable[[SweepDetail], None] | None = None,
        timeout_s: float = float("inf"),
    ) -> Flow[SweepDetail]:
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
        return waiting.wait_sweep(sweep_id, on_change, monotonic() + timeout_s)

    @Call
    def sweep_report(
        self, sweep_id: str, form: Literal["html", "csv", "svg"] = "html"
    ) -> Flow[str]:
        """The report as text: ``html``, ``csv`` or ``svg``."""
        return text_of(Request("GET", f"/v1/sweeps/{sweep_id}/report", {"format": form}))

    @Call
    def cancel_sweep(self, sweep_id: str) -> Flow[SweepDetail]:
        """Make no more jobs of a sweep, and ask those that were made to stop."""
        return json_of(Request("POST", f"/v1/sweeps/{sweep_id}/cancel", json={}))

    @Call
    def delete_sweep(self, sweep_id: str) -> Flow[None]:
        """Forget a sweep that has ended; its jobs stay."""
        return nothing(Request("DELETE", f"/v1/sweeps/{sweep_id}"))

    # -- webhooks ----------------------------------------------------------------------------

    @Call
    def create_webhook(self, url: str, *, progress: bool = False) -> Flow[WebhookCreated]:
        """An address that is told of all jobs; the secret of its signatures is in this answer."""
        return create("/v1/webhooks", {"url": url, "progress": progress})

    @Call
    def webhooks(self) -> Flow[list[WebhookRead]]:
        """All webhooks of the tenant, without their secrets."""
        return listing("/v1/webhooks")

    @Call
    def webhook_secret(self) -> Flow[WebhookSecret]:
        """``secret`` of the messages to the field ``webhook`` of jobs."""
        return json_of(Request("GET", "/v1/webhook-secret"))

    @Call
    def test_webhook(self, webhook_id: str) -> Flow[WebhookTestRead]:
        """Send a test now: ``delivered, status_code, error``."""
        return json_of(Request("POST", f"/v1/webhooks/{webhook_id}/test", json={}, read_s=45.0))

    @Stream
    def deliveries(self, webhook_id: str, limit: int | None = None) -> Emits[DeliveryRead]:
        """Messages to a webhook, newest first, and what became of them."""
        return pages(f"/v1/webhooks/{webhook_id}/deliveries", {}, limit)

    @Call
    def resend(self, webhook_id: str, message_id: str) -> Flow[DeliveryRead]:
        """Send a message once more."""
        path = f"/v1/webhooks/{webhook_id}/deliveries/{message_id}/resend"
        return json_of(Request("POST", path, json={}))

    @Call
    def delete_webhook(self, webhook_id: str) -> Flow[None]:
        """Delete a webhook."""
        return nothing(Request("DELETE", f"/v1/webhooks/{webhook_id}"))


def _pipeline(body: dict[str, Any], key: str | None) -> Flow[dict[str, JobRead]]:
    return (yield from create("/v1/pipelines", body, key))["jobs"]
