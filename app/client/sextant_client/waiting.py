"""Waiting for a job: its stream of events, then a long poll for the final state."""

from collections.abc import Callable
from time import monotonic

import httpx

from sextant_client import stream
from sextant_client.answers import JobRead, SweepDetail
from sextant_client.errors import ApiError
from sextant_client.flow import Flow, Pause, Request, send, with_callback
from sextant_client.stream import StreamedEvent

FINAL = ("succeeded", "failed", "cancelled")
LONG_POLL_S = 30
SWEEP_EVERY_S = 2.0


def wait(
    job_id: str,
    on_event: Callable[[StreamedEvent], None] | None,
    on_progress: Callable[[JobRead], None] | None,
    deadline: float,
) -> Flow[JobRead]:
    if on_event is not None:
        yield from _watch(job_id, on_event, deadline)
    etag = ""
    job: JobRead | None = None
    while True:
        headers = {"If-None-Match": etag} if etag else {}
        wait_s = int(max(0, min(LONG_POLL_S, deadline - monotonic())))
        path, query = f"/v1/jobs/{job_id}", {"wait_s": wait_s}
        answer = yield from send(
            Request("GET", path, query, headers=headers, read_s=LONG_POLL_S + 15)
        )
        if answer.status_code != httpx.codes.NOT_MODIFIED:
            job, etag = answer.json(), answer.headers.get("etag", "")
            if on_progress is not None:
                on_progress(job)
        if job is not None and job["status"] in FINAL:
            return job
        _check(deadline, job_id)


def wait_sweep(
    sweep_id: str, on_change: Callable[[SweepDetail], None] | None, deadline: float
) -> Flow[SweepDetail]:
    seen: SweepDetail | None = None
    while True:
        answer = yield from send(Request("GET", f"/v1/sweeps/{sweep_id}"))
        sweep: SweepDetail = answer.json()
        if sweep != seen and on_change is not None:
            on_change(sweep)
        seen = sweep
        if sweep["status"] != "running":
            return sweep
        _check(deadline, sweep_id)
        yield Pause(SWEEP_EVERY_S)


def _watch(job_id: str, on_event: Callable[[StreamedEvent], None], deadline: float) -> Flow[None]:
    def check_and_call(event: StreamedEvent) -> None:
        on_event(event)
        _check(deadline, job_id)

    try:
        yield from with_callback(stream.follow(f"/v1/jobs/{job_id}/events"), check_and_call)
    except ApiError as error:
        if error.status not in (429, 503):  # no stream is available now: the long poll suffices
            raise


def _check(deadline: float, job_id: str) -> None:
    if monotonic() > deadline:
        raise ApiError.own("timeout", f"{job_id} is not final yet; the job itself goes on")
