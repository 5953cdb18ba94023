"""What the common pages weigh, everything that they load included."""

from typing import Any

import pytest

from tests.web.sample import end, training

LIMIT_BYTES = 300_000
OTHERS = ("jobs", "new", "compare", "datasets")


@pytest.mark.parametrize(
    "page",
    ["job", *(pytest.param(page, marks=pytest.mark.slow) for page in OTHERS)],
)
def test_a_common_page_weighs_at_most_300_kb(user, tmp_path, page):
    """On the wire, without a cache; the numbers and pictures of a job are its own."""
    first, second = training(tmp_path, "one"), training(tmp_path, "two")
    for run in (first, second):
        end(run, exit_code=0)
    ids = [run.job_id.removeprefix("job_") for run in (first, second)]
    address = {
        "jobs": "/",
        "job": f"/jobs/{first.job_id}",
        "new": "/new?kind=dynamic_downsampling.train",
        "compare": f"/compare?jobs={','.join(ids)}",
        "datasets": "/datasets",
    }[page]
    fresh = user.context.browser.new_context(
        base_url=user.url, storage_state=user.context.storage_state()
    )
    tab = fresh.new_page()
    finished: list[Any] = []
    tab.on("requestfinished", lambda request: finished.append(request))
    tab.goto(address)
    tab.wait_for_timeout(1500)
    sizes = {name: size for each in finished for name, size in size_of(each).items()}
    fresh.close()
    assert len(sizes) >= 5
    assert sum(sizes.values()) < LIMIT_BYTES, sizes


def size_of(request) -> dict[str, int]:
    """Bytes of an answer that belongs to the page, by address."""
    if "/show/" in request.url or "/stream?" in request.url:
        return {}
    sizes = request.sizes()
    return {request.url: sizes["responseBodySize"] + sizes["responseHeadersSize"]}
