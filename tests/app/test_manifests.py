"""Manifests for Kubernetes against its schemas, the settings and the numbers of /metrics."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import pytest
import yaml

from app.services import gauges
from app.settings import FOREIGN, Settings

FOLDER = Path(__file__).parents[2] / "docs" / "deploy" / "kubernetes"
BASE = yaml.safe_load((FOLDER / "base/kustomization.yaml").read_text())
EXAMPLE = yaml.safe_load((FOLDER / "example/kustomization.yaml").read_text())
VERSIONS = ("1.29", "1.37")
KNOWN = {f"SEXTANT_{name.upper()}" for name in Settings.model_fields} | FOREIGN
OF_KEDA = "keda.sh/v1alpha1"  # its schemas are in no package
DOCUMENTS = [
    document
    for name in BASE["resources"]
    for document in yaml.safe_load_all((FOLDER / "base" / name).read_text())
]


def named(document: dict[str, Any]) -> str:
    return f"{document['kind']} {document['metadata']['name']}"


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Templates of pods by the name of what makes them; those of KEDA's jobs too."""
    for document in DOCUMENTS:
        spec = document["spec"].get("jobTargetRef", document["spec"])
        if "template" in spec:
            yield document["metadata"]["name"], spec["template"]


PODS = dict(pods())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_documents_keep_to_the_schemas(document, version):
    if document["apiVersion"] != OF_KEDA:
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("name", PODS)
def test_pods_keep_to_the_schemas_and_are_hardened(name):
    template = PODS[name]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, **template["metadata"]},
        "spec": template["spec"],
    }
    kubernetes_validate.validate(pod, VERSIONS[-1], strict=True)
    (container,) = template["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert template["spec"]["securityContext"]["runAsNonRoot"]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in template["spec"]["volumes"]}


@pytest.mark.parametrize("name", PODS)
def test_secrets_and_settings_are_those_of_the_service(name, monkeypatch, tmp_path):
    spec = PODS[name]["spec"]
    (container,) = spec["containers"]
    shared = [
        *BASE["configMapGenerator"][0]["literals"],
        *EXAMPLE["configMapGenerator"][0]["literals"],
    ]
    values = dict(each.split("=", 1) for each in shared)
    values |= {each["name"]: each["value"] for each in container.get("env", [])}
    for variable, value in values.items():
        if variable.startswith("SEXTANT_"):
            assert variable in KNOWN
            monkeypatch.setenv(variable, value)
    secret = next(v["secret"] for v in spec["volumes"] if v["name"] == "secrets")
    files = EXAMPLE["secretGenerator"][0]["files"]
    given = [item["key"] for item in secret.get("items", [])] or files
    assert set(given) <= set(files)
    assert ("sextant_auth_pepper" in given) is (name == "sextant-api")
    for each in given:
        (tmp_path / each).write_text("redis://from-a-file")
    settings = Settings(_secrets_dir=tmp_path, _env_file=None)  # ty: ignore[unknown-argument]
    assert settings.broker_url == "redis://from-a-file"
    assert settings.store.startswith("s3://")
    if name != "sextant-api":
        needed_s = settings.worker_shutdown_s + settings.worker_term_s
        assert spec["terminationGracePeriodSeconds"] > needed_s


def test_selectors_find_their_pods():
    labels = {name: template["metadata"]["labels"]["app"] for name, template in PODS.items()}
    assert labels == {name: name for name in PODS}
    for document in DOCUMENTS:
        selector = document["spec"].get("selector")
        if selector is not None:
            assert selector.get("matchLabels", selector)["app"] in PODS
        target = document["spec"].get("scaleTargetRef")
        if target is not None:
            assert target["name"] in PODS
    images = {each["name"] for each in EXAMPLE["images"]}
    used = {t["spec"]["containers"][0]["image"].partition(":")[0] for t in PODS.values()}
    assert used == images


def test_workers_are_scaled_by_numbers_of_the_service():
    scaled = [document for document in DOCUMENTS if document["apiVersion"] == OF_KEDA]
    assert {document["kind"] for document in scaled} == {"ScaledObject", "ScaledJob"}
    for document in scaled:
        (trigger,) = document["spec"]["triggers"]
        assert trigger["type"] == "prometheus"
        query = trigger["metadata"]["query"]
        assert promql_parser.parse(query).prettify()
        names = [name for name in ("jobs_queue_depth", "jobs_running") if name in query]
        source = Path(gauges.__file__).read_text()
        assert len(names) == 2
        assert all(f'"{name}"' in source for name in names)
        name = document["metadata"]["name"]
        env = {e["name"]: e["value"] for e in PODS[name]["spec"]["containers"][0]["env"]}
        assert f'queue="{env["SEXTANT_WORKER_QUEUES"]}"' in query
