"""The distribution as users install it, and in a folder that has packages named like ours."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service import free_port, wait_until

pytestmark = [pytest.mark.docs, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
FILES = ("pyproject.toml", "README.md", "LICENSE")
BASE_MAX = 25  # distributions of a machine that only submits jobs, ours included
OURS = ("app", "models", "workers", "migrations")
# its generator is a data file of the wheel
SPEC = {"kind": "lcw.sample", "model": {"pretrained": "digits"}, "count": 4}
SCRIPT = """
import json
import os
from pathlib import Path

from sextant_client import Client

key = (Path("sextant-state") / "admin.key").read_text().strip()
with Client(os.environ["SEXTANT_URL"], key) as client:
    job = client.wait(client.submit(json.loads(Path("spec.json").read_text()))["id"])
    assert job["status"] == "succeeded", job
    for artifact in client.artifacts(job["id"]):
        print(client.download(job["id"], artifact["name"], Path()))
"""


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        command, cwd=cwd, env=clean(**variables), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def clean(**variables: str) -> dict[str, str]:
    """The environment of a user: nothing of ours, and no path to this checkout."""
    ours = ("SEXTANT_", "PYTHON", "VIRTUAL_ENV")
    return {k: v for k, v in os.environ.items() if not k.startswith(ours)} | variables


def install(environment: Path, *arguments: str) -> None:
    """Install with the tested versions into an environment, which is made if it is not there."""
    if not environment.exists():
        run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment.parent)
    pip = (sys.executable, "-m", "pip", "--python", environment / "bin" / "python")
    constraints = ("-c", str(ROOT / "constraints.txt"))
    run(*pip, "install", "--quiet", *constraints, *arguments, cwd=environment.parent)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """A folder that is removed at once: an environment takes 2 GB."""
    made = tmp_path_factory.mktemp("packaging")
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def wheel(folder) -> Path:
    """The wheel, built from the source distribution: what this lacks is missing in both."""
    source = folder / "source"
    source.mkdir()
    for name in FILES:
        shutil.copyfile(ROOT / name, source / name)
    for name in OURS:
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})"
    run(sys.executable, "-c", build, cwd=source)
    (sdist,) = folder.glob("*.tar.gz")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    run(sys.executable, "-m", "pip", "wheel", *options, sdist, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def base(folder, wheel) -> Path:
    """Programs of an environment with the base alone."""
    install(folder / "base", str(wheel))
    return folder / "base" / "bin"


@pytest.fixture(params=["wheel", "editable"])
def programs(request, folder) -> Path:
    """Programs of an environment with the whole service; the editable one is that of the tests."""
    if request.param == "editable":
        return Path(sys.executable).parent
    built, environment = request.getfixturevalue("wheel"), folder / "embedded"
    install(environment, *shlex.split(os.environ.get("TORCH_ARGS", "")), "torch")
    install(environment, f"{built}[embedded]")
    return environment / "bin"


@pytest.fixture
def project(tmp_path) -> Path:
    """A user's folder with packages of the names of ours, which must not be imported."""
    for name in OURS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(
            "raise RuntimeError('the package of a user')\n"
        )
    return tmp_path


def test_the_base_is_small_and_its_commands_work(base, project):
    list_all = (sys.executable, "-m", "pip", "--python", base / "python", "list", "--format=json")
    distributions = {each["name"] for each in json.loads(run(*list_all, cwd=project))}
    assert "sextant-jobs" in distributions
    assert len(distributions) <= BASE_MAX, sorted(distributions)
    assert "submit" in run(base / "sextant", "--help", cwd=project)
    assert run(base / "sextant", "version", cwd=project).startswith("sextant ")
    run(base / "sextant", "doctor", "--only", "packages", cwd=project)
    run(base / "python", "-c", "from sextant_client import AsyncClient, Client", cwd=project)


def test_the_base_names_the_extra_that_a_command_needs(base, project):
    done = subprocess.run(
        [base / "sextant", "up"],
        cwd=project,
        env=clean(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "pip install 'sextant-jobs[embedded]'" in done.stderr


def test_the_service_runs_in_a_folder_with_packages_named_like_ours(programs, project):
    bind = f"127.0.0.1:{free_port()}"
    output = project / "output"
    with output.open("wb") as file:
        up = subprocess.Popen(
            [programs / "sextant", "up", "--bind", bind],
            cwd=project,
            env=clean(),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(
            lambda: "key: sx_" in output.read_text() or up.poll(), 90, "the service is ready"
        )
        assert up.poll() is None, output.read_text()
        (project / "spec.json").write_text(json.dumps(SPEC))
        assert "succeeded" in run(
            programs / "sextant", "submit", "spec.json", "--follow", cwd=project
        )
        (project / "script.py").write_text(SCRIPT)
        files = run(programs / "python", "script.py", cwd=project, SEXTANT_URL=f"http://{bind}")
        assert all((project / name).stat().st_size for name in files.split())
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0, output.read_text()
