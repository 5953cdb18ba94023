"""The documentation as a site: every link leads somewhere, nothing comes from elsewhere."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.docs, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
LOADED = re.compile(r'<(?:script|img|link rel="stylesheet")[^>]*?(?:src|href)="(https?:[^"]+)"')


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """What the builder reads; beside the package of the client, as in `make docs`."""
    made = ROOT / "build" / "docs-of-a-test"
    subprocess.run([sys.executable, "docs/site/pages.py", str(made)], cwd=ROOT, check=True)
    yield made
    shutil.rmtree(made)


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("zensical")
    command = [program, "build", "--clean", "--strict", "--config-file", folder / "mkdocs.yml"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_all_links_lead_somewhere_and_nothing_comes_from_elsewhere(folder):
    built = build(folder)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = [*(folder / "site").rglob("*.html")]
    assert len(pages) > 35
    for page in pages:
        assert not LOADED.findall(page.read_text()), page
    assert "dry_run" in (folder / "site/reference/client.html").read_text()
    assert "/cancel</code>" in (folder / "site/reference/api.html").read_text()


def test_a_link_that_leads_nowhere_is_refused(folder):
    page = folder / "pages" / "SECURITY.md"
    page.write_text(page.read_text() + "\n[nowhere](nowhere.md)\n")
    assert build(folder).returncode != 0
