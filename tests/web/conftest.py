"""A real browser before a real server: Playwright with the system's Chromium."""

import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from playwright.sync_api import expect, sync_playwright

from app.db.session import make_session
from app.services import keys
from tests.conftest import make_database
from tests.service import connect, serving

PATIENCE_MS = 30_000  # on a loaded machine
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
EXPECTED = (
    "Blocked script execution",  # of a report in its sandbox
    "Applying inline style",  # by axe-core; our own pages have none, see test_policy
)
AXE = Path(__file__).parent / "vendor" / "axe.min.js"


class Look(NamedTuple):
    """How a page is looked at."""

    width: int
    scheme: str

    def __str__(self) -> str:
        return f"{self.width}_{self.scheme}"

    def apply(self, page: Any) -> None:
        """Resize the page and choose its colours."""
        page.set_viewport_size({"width": self.width, "height": 800})
        page.emulate_media(color_scheme=self.scheme, reduced_motion="reduce")


LOOKS = [  # the first in the ordinary suite: the narrowest, in the colours that are not the default
    Look(360, "dark"),
    *(
        pytest.param(look, marks=pytest.mark.slow)
        for look in (Look(1280, "light"), Look(1280, "dark"), Look(3840, "light"))
    ),
]


@pytest.fixture(scope="module")
def database_url(request, tmp_path_factory) -> str:
    """SQLite alone: which database the rows lie in makes no difference to a page."""
    return make_database("sqlite", request, tmp_path_factory.mktemp("database"))


@pytest.fixture
def admin_key(settings) -> str:
    """The key of a first start."""
    with make_session() as session:
        return str(keys.ensure_admin_key(session))


@pytest.fixture
def site(admin_key) -> Iterator[str]:
    """Address of a server over an empty database."""
    with serving() as url:
        yield url


def chromium() -> str | None:
    """The system's browser, or None."""
    return os.environ.get("TEST_CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium; where there is none, these tests say so and are left out."""
    if (program := chromium()) is None:
        text = f"NO BROWSER: the page is not tested; install one of {', '.join(CHROMIUM)}"
        warnings.warn(pytest.PytestWarning(text), stacklevel=1)
        pytest.skip(text)
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def tab(browser, site) -> Iterator[Any]:
    """A page of a fresh browser; an error of a script or of the policy fails the test."""
    context = browser.new_context(base_url=site, viewport={"width": 1280, "height": 800})
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    opened = context.new_page()
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda text: text.type == "error" and faults.append(text.text))
    opened.faults = faults
    yield opened
    context.close()
    assert [fault for fault in faults if not fault.startswith(EXPECTED)] == []


@pytest.fixture
def user(tab, visitor) -> Any:
    """The page of a browser that has the cookies of a login."""
    jar = visitor.cookies.jar
    tab.context.add_cookies(
        [
            {"name": each.name, "value": each.value, "domain": each.domain, "path": each.path}
            for each in jar
        ]
    )
    tab.goto("/")
    return tab


@pytest.fixture
def visitor(site, admin_key) -> Iterator[httpx.Client]:
    """A client without scripts that has logged in, as a browser would."""
    with connect(site, Accept="text/html") as client:
        log_in(client, admin_key)
        yield client


def photograph(page: Any, name: str, look: Look, folder: Path | None = None) -> None:
    """A picture of the whole page; nothing on it may be wider than the screen.

    Args:
        page: that is shown.
        name: of the picture.
        look: of the page.
        folder: for the picture; without it ``TEST_GALLERY``, and without that none is taken.
    """
    assert page.evaluate("document.documentElement.scrollWidth") <= look.width
    folder = folder or Path(os.environ.get("TEST_GALLERY", ""))
    if folder == Path():
        return
    for frame in page.locator("iframe:visible").all():  # they load when they are seen
        frame.scroll_into_view_if_needed()
        frame.content_frame.locator("body").wait_for()
    for image in page.locator("img:visible").all():
        image.scroll_into_view_if_needed()
    page.wait_for_function("[...document.images].every(i => i.complete || !i.checkVisibility())")
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(300)
    page.screenshot(path=folder / f"{name}_{look}.png", full_page=True)


def token_of(html: str) -> str:
    """The token that a page's forms carry."""
    return html.partition('name="csrf-token" content="')[2].partition('"')[0]


def log_in(client: httpx.Client, key: str) -> httpx.Response:
    """Exchange a key for a login."""
    token = token_of(client.get("/login").text)
    return client.post("/login", data={"csrf_token": token, "key": key, "next": "/"})


def violations(page: Any) -> list[str]:
    """What axe-core finds wrong with a page."""
    if not page.evaluate("typeof window.axe === 'object'"):
        page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']}: {node['html'][:160]} {node['failureSummary'][:200]}"
        for each in found["violations"]
        for node in each["nodes"]
    ]
