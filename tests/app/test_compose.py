"""The compose file and the images, held against the settings and the rules of production."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.utils import canonicalize_name

from app.local.doctor import required
from app.settings import FOREIGN, Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ("api", "worker-cpu", "worker-gpu")
SECRETS = Path("/run/secrets")


def variables(service: str) -> dict[str, str]:
    found = SERVICES[service]["environment"]
    return {name: value for name, value in found.items() if name.startswith("SEXTANT_")}


def plain(value: str) -> str:
    """The value with the defaults of ``${NAME:-default}`` filled in."""
    return re.sub(r"\$\{[^:}]+:-([^}]*)\}", r"\1", value)


def test_the_services_of_the_specification():
    assert set(SERVICES) == {*OURS, "redis", "postgres", "store"}
    assert SERVICES["worker-gpu"]["profiles"] == ["gpu"]
    assert all("profiles" not in SERVICES[name] for name in SERVICES if name != "worker-gpu")


@pytest.mark.parametrize("service", OURS)
def test_every_variable_is_a_setting_with_a_valid_value(service, monkeypatch, tmp_path):
    known = {f"SEXTANT_{name.upper()}" for name in Settings.model_fields} | FOREIGN
    assert set(variables(service)) <= known
    for name, value in variables(service).items():
        monkeypatch.setenv(name, plain(value))
    for secret in SERVICES[service]["secrets"]:
        (tmp_path / secret).write_text("redis://from-a-file")
    settings = Settings(_secrets_dir=tmp_path, _env_file=None)  # ty: ignore[unknown-argument]  # pydantic-settings reads these two
    assert settings.store.startswith("s3://")
    assert settings.store_endpoint == "http://store:8333"
    assert settings.broker_url == settings.database_url == "redis://from-a-file"
    assert bool(settings.auth_pepper.get_secret_value()) is (service == "api")
    assert settings.state_dir == Path("/state")
    assert not settings.auth_disabled


@pytest.mark.parametrize("service", OURS)
def test_secrets_come_from_files_named_like_settings(service):
    assert variables(service)["SEXTANT_SECRETS_DIR"] == str(SECRETS)
    known = {f"sextant_{name}" for name in Settings.model_fields}
    assert set(SERVICES[service]["secrets"]) <= known & set(COMPOSE["secrets"])


@pytest.mark.parametrize("service", SERVICES)
def test_hardened_watched_and_limited(service):
    found = SERVICES[service]
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert found["restart"] == "unless-stopped"
    assert found["healthcheck"]["test"]
    assert set(found["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert found["volumes"]
    assert {each.partition(":")[0] for each in found["volumes"]} <= set(COMPOSE["volumes"])
    if service not in OURS:
        assert found["user"] not in ("root", "0", "0:0")
        assert re.search(r":\d", found["image"]), "pinned to a version"


@pytest.mark.parametrize("service", OURS)
def test_images_of_ours_are_built_and_not_root(service):
    file = ROOT / SERVICES[service]["build"]["dockerfile"]
    text = file.read_text()
    assert re.search(r"^USER sextant$", text, re.MULTILINE)
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split())
        ignored = (ROOT / ".dockerignore").read_text().splitlines()
        assert all(f"!{name}" in ignored for name in source.split())
    for argument in SERVICES[service]["build"].get("args", {}):
        assert f"ARG {argument}" in text


def test_no_torch_in_the_api():
    text = (ROOT / "app/Dockerfile").read_text()
    assert "torch" not in "".join(line for line in text.splitlines() if not line.startswith("#"))
    assert not [name for name in locked("api") if name.startswith(("torch", "nvidia-cu"))]


@pytest.mark.parametrize(("service", "lock"), [("app", "api"), ("workers", "worker")])
def test_what_is_installed_has_the_digest_of_the_lock(service, lock):
    """All but torch, whose builds each have their own, and the code itself, which is copied."""
    text = (ROOT / service / "Dockerfile").read_text()
    commands = re.findall(r"pip install --no-cache-dir (.+)$", text, re.MULTILINE)
    assert f"--require-hashes -r requirements/{lock}.txt" in commands
    others = [each for each in commands if "--require-hashes" not in each]
    assert {each.split()[-1] for each in others} <= {"torch", "."}
    assert "--no-deps --no-build-isolation ." in others


@pytest.mark.parametrize("lock", ["api", "worker"])
def test_images_can_send_traces(lock):
    assert {"opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"} <= locked(lock).keys()


def locked(lock: str) -> dict[str, str]:
    """Version by name of each package of a lock; every one of them has digests."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    entries = re.findall(r"^([a-z0-9._-]+)(?:\[.*\])?==(\S+) .*\\\n +--hash=", text, re.MULTILINE)
    assert len(entries) == len(re.findall(r"^[a-z0-9]", text, re.MULTILINE))
    return {canonicalize_name(name): version for name, version in entries}


@pytest.mark.parametrize("lock", ["api", "worker"])
def test_lock_and_constraints_agree(lock):
    """`make lock` after a change of constraints.txt or of the extras."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    tested = {canonicalize_name(name): version for name, version in pairs}
    assert {name: tested.get(name) for name in locked(lock)} == locked(lock)


@pytest.mark.parametrize(
    ("lock", "extras"), [("api", ["server"]), ("worker", ["worker", "samples"])]
)
def test_the_lock_holds_what_the_extras_ask_for(lock, extras):
    wanted = {canonicalize_name(each.name) for name in extras for each in required(name)}
    wanted |= {canonicalize_name(each.name) for each in required()} | {"setuptools"}
    assert wanted - {"torch"} <= locked(lock).keys()


def test_only_the_api_is_reachable_and_only_from_this_machine():
    published = {name: each["ports"] for name, each in SERVICES.items() if "ports" in each}
    assert published == {"api": ["127.0.0.1:8722:8722"]}
    assert variables("api")["SEXTANT_BIND"].endswith(":8722")


def test_only_the_api_has_a_way_out():
    """Nor does a worker hold the secret of the keys."""
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    ways = {name: each["networks"] for name, each in SERVICES.items()}
    assert ways.pop("api") == ["inside", "outside"]
    assert all(way == ["inside"] for way in ways.values())
    holders = {name for name in OURS if "sextant_auth_pepper" in SERVICES[name]["secrets"]}
    assert holders == {"api"}


def test_workers_have_time_to_save():
    slack_s = 10
    for service in OURS[1:]:
        grace_s = int(SERVICES[service]["stop_grace_period"].removesuffix("s"))
        defaults = Settings.model_fields
        needed = defaults["worker_shutdown_s"].default + defaults["worker_term_s"].default
        assert grace_s >= needed + slack_s


def test_the_broker_forgets_nothing():
    text = COMPOSE["configs"]["valkey"]["content"]
    for line in ("appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction"):
        assert line in text.splitlines()
