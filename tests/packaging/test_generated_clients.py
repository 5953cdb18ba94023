"""Clients that others generate from the OpenAPI document, and the rules of a linter for it.

The generators come from their registries into a folder of the test; without a way there the test is
skipped, loudly.
"""

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.main import create_app
from models.catalog import kinds
from tests.conftest import make_database
from tests.service import Service

pytestmark = [pytest.mark.docs, pytest.mark.timeout(900)]
PACKAGES = (
    "openapi-typescript@7.13.0",
    "openapi-fetch@0.17.0",
    "typescript@5.9.3",
    "@types/node@26.6.7",
    "@stoplight/spectral-cli@6.16.3",
)
PYTHON_GENERATOR = "openapi-python-client==0.29.1"
SETTINGS = {
    "compilerOptions": {
        "strict": True,
        "module": "nodenext",
        "target": "es2022",
        "lib": ["es2022", "dom"],
        "types": ["node"],
    },
    "files": ["submit.ts"],
}
SCRIPT = """import createClient from "openapi-fetch";
import type { paths } from "./schema.js";

const client = createClient<paths>({ baseUrl: process.argv[2] });
const query = { dry_run: true };

async function sent(kind: string, answer: Promise<{ error?: unknown; response: Response }>) {
  const { error, response } = await answer;
  console.log(JSON.stringify({ kind, status: response.status, error }));
}

"""
EACH = """await sent({kind},
  client.POST("/v1/jobs", {{ params: {{ query }}, body: {{ spec: {spec} }} }}));
"""


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the document alone."""
    made = tmp_path_factory.mktemp("clients")
    (made / "openapi.json").write_text(json.dumps(create_app().openapi()))
    return made


@pytest.fixture(scope="module")
def tools(folder) -> Path:
    """Where the programs of npm's packages lie."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("NOT TESTED: clients in TypeScript and the linter, since npm is not installed")
    (folder / "package.json").write_text('{"type": "module", "private": true}')
    command = [npm, "install", "--silent", "--no-audit", "--no-fund", *PACKAGES]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NOT TESTED: clients in TypeScript and the linter: npm: {done.stderr[-300:]}")
    return folder / "node_modules" / ".bin"


def test_the_linter_has_nothing_to_say(folder, tools):
    (folder / ".spectral.yaml").write_text('extends: ["spectral:oas"]\n')
    run(tools / "spectral", "lint", "openapi.json", "--fail-severity", "hint", folder=folder)


@pytest.fixture
def api(tmp_path, request) -> Iterator[Service]:
    service = Service(tmp_path / "service", make_database("sqlite", request, tmp_path))
    service.start_api()
    yield service
    service.stop()


def test_a_client_in_typescript_submits_the_example_of_every_kind(folder, tools, api):
    """Fields with a default may be left out: ``--default-non-nullable false``."""
    options = ("--output", "schema.d.ts", "--default-non-nullable", "false")
    run(tools / "openapi-typescript", "openapi.json", *options, folder=folder)
    specs = {kind: dict(spec.example) | {"kind": kind} for kind, spec in kinds().items()}
    lines = (EACH.format(kind=json.dumps(k), spec=json.dumps(v)) for k, v in specs.items())
    (folder / "submit.ts").write_text(SCRIPT + "".join(lines))
    (folder / "tsconfig.json").write_text(json.dumps(SETTINGS))
    run(tools / "tsc", "--project", "tsconfig.json", folder=folder)
    answers = run("node", "submit.js", f"http://127.0.0.1:{api.port}", folder=folder).splitlines()
    assert len(answers) == len(specs)
    for answer in map(json.loads, answers):
        # an example may name a job or a dataset that is not there; nothing else is wrong with any
        missing = [each["code"] for each in (answer.get("error") or {}).get("errors", [])]
        assert answer["status"] == 200 or set(missing) == {"reference"}, answer


def test_a_client_in_python_is_generated_without_a_warning(folder):
    made = folder / "generator"
    venv.create(made, with_pip=True)
    install = [made / "bin/python", "-m", "pip", "install", "--quiet", PYTHON_GENERATOR]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NOT TESTED: the client in Python: pip: {done.stderr[-300:]}")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # it formats by ruff
    command = [made / "bin/openapi-python-client", "generate", "--fail-on-warning"]
    command += ["--path", "openapi.json", "--output-path", "generated"]
    run(*command, folder=folder, PATH=path)
    assert [*(folder / "generated").rglob("models/*train*.py")]
    packages = [path.parent for path in (folder / "generated").glob("*/client.py")]
    assert [package.name for package in packages] == ["sextant_service_client"]
    run(sys.executable, "-m", "compileall", "-q", packages[0], folder=folder)
