"""What cannot run is refused with the job: by what the service knows of the data it names."""

import json
from fnmatch import fnmatchcase
from typing import Any

import pytest

from app.db.session import make_session
from app.db.tables import Artifact, Dataset, Tenant, new_id
from app.services import keys
from models.catalog import kinds
from models.core.needs import WEIGHTS, DatasetNeed
from models.core.spec import DatasetRef
from models.stored import load_stored
from models.supervised.spec import CLASSIFIER_FILES, CLASSIFIERS, SupervisedSpec
from tests.app.factories import add_job
from tests.app.test_problems import problem
from tests.smallest import smallest

PIXELS = {"height": 32, "width": 32, "channels": 3}
LABELLED = {"train": 800, "test": 200, "classes": 10, **PIXELS}
UPLOADS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "birds": ("image_folder", LABELLED, {}),
    "one_class": ("image_folder", LABELLED | {"classes": 1}, {}),
    "few": ("npz", LABELLED | {"train": 24, "test": 6}, {}),
    "untested": ("npz", LABELLED | {"train": 2, "test": 0}, {}),
    "dots": ("npz", LABELLED | {"height": 2, "width": 2}, {}),
    "wide": ("npz", LABELLED | {"width": 48}, {}),
    "five_bands": ("npz", LABELLED | {"channels": 5}, {}),
    "holiday": ("image_folder", {"images": 3}, {}),
    "hills": ("elevation", {"rows": 400, "columns": 300, "cell_size_m": 10.0}, {}),
    "plain_npy": (
        "elevation",
        {"rows": 64, "columns": 64, "cell_size_m": 10.0},
        {"cell_size_m": 10.0},
    ),
    "in_degrees": ("elevation", {"rows": 64, "columns": 64}, {}),
    "radar": ("netcdf", {"frames": 9, "variables": 1, "rain_variables": 1}, {}),
    "warmth": ("netcdf", {"frames": 9, "variables": 1, "rain_variables": 0}, {}),
    "old_radar": ("netcdf", {"frames": 9, "variables": 1}, {}),
    "weights": ("net", {"tensors": 60, "parameters": 1000}, {}),
    "program": ("net", {"tensors": 60, "parameters": 1000, "operations": 40}, {}),
}
TRAININGS = [
    "dynamic_downsampling.train",
    "dynamic_downsampling.plan",
    "selective_convolution.train",
    "freetickets.train",
    "lcw.train",
]
TERRAINS = ["terrain.simulate", "terrain.downsample", "terrain.compare"]
# TestForms reads rows on both; the others are about what is then decided
ONE_DATABASE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def add_dataset(name: str, tenant_id: str = keys.DEFAULT_TENANT, **counts: int) -> None:
    """A ready dataset, as its check would leave it; with ``counts`` a folder of images."""
    content_format, counts, options = ("image_folder", counts, {}) if counts else UPLOADS[name]
    values = {"name": name, "format": content_format, "counts": counts, "options": options}
    with make_session() as session:
        if session.get(Tenant, tenant_id) is None:
            session.add(Tenant(id=tenant_id, name=tenant_id))
            session.flush()
        session.add(
            Dataset(
                id=new_id("ds"),
                tenant_id=tenant_id,
                status="ready",
                storage_key=f"t/{tenant_id}/{name}",
                sha256="0" * 64,
                size_bytes=1,
                **values,
            )
        )


def add_artifact(kind: str, name: str, role: str) -> dict[str, str]:
    """A reference to the artifact of a new job."""
    job_id = add_job(kind=kind, method=kind.partition(".")[0])
    with make_session() as session:
        row = Artifact(
            id=new_id("art"),
            job_id=job_id,
            tenant_id=keys.DEFAULT_TENANT,
            run_number=1,
            name=name,
            role=role,
            status="ready",
            media_type="application/octet-stream",
            storage_key=f"t/x/{job_id}/{name}",
            sha256="1" * 64,
            size_bytes=1,
        )
        session.add(row)
    return {"job": job_id, "artifact": name}


@pytest.fixture
def datasets(client):
    """One dataset of each sort."""
    for name in UPLOADS:
        add_dataset(name)


def example(kind: str, **fields: Any) -> dict[str, Any]:
    return smallest(kind) | fields


def refused(client, spec: dict[str, Any]) -> dict[str, str]:
    """Details by pointer; the dry run says the same, and nothing is stored."""
    answers = [
        client.post("/v1/jobs", params=query, json={"spec": spec})
        for query in ({}, {"dry_run": "true"})
    ]
    bodies = [problem(answer, 422, "validation_failed") for answer in answers]
    assert bodies[0]["errors"] == bodies[1]["errors"]
    assert client.get("/v1/jobs").json()["data"] == []
    return {error["pointer"]: error["detail"] for error in bodies[0]["errors"]}


def accepted(client, spec: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json={"spec": spec})
    assert answer.status_code == 201, answer.text
    return answer.json()["resolved_spec"]


class TestForms:
    @pytest.mark.parametrize("kind", TRAININGS)
    @pytest.mark.parametrize(
        ("name", "is_a"),
        [
            ("jacksboro_dem", "an elevation of 344 x 403 cells"),
            ("hills", "an elevation of 400 x 300 cells of 10 m"),
            ("holiday", "3 photographs without labels"),
            ("photos", "7 photographs without labels"),
            ("program", "a net as a program"),
        ],
    )
    def test_trainings_need_labelled_images(self, client, datasets, kind, name, is_a):
        details = refused(client, example(kind, data={"dataset": name}))
        (detail,) = details.values()
        assert set(details) == {"/spec/data/dataset"}
        assert f"needs labelled images; {name} is {is_a}" in detail
        would_do = detail.rpartition("datasets that would do: ")[2].split(", ")
        assert {"digits", "birds"} <= set(would_do)
        assert not {"holiday", "hills", "photos", "one_class"} & set(would_do)

    @pytest.mark.parametrize("kind", TERRAINS)
    @pytest.mark.parametrize("name", ["digits", "photos", "birds", "weights"])
    def test_floods_need_an_elevation(self, client, datasets, kind, name):
        details = refused(client, example(kind, terrain={"dataset": name, "cell_size_m": 5.0}))
        (detail,) = details.values()
        assert set(details) == {"/spec/terrain/dataset"}
        assert detail.startswith(f"needs an elevation; {name} is ")

    def test_a_stack_of_rain_is_of_rain(self, client, datasets):
        water = [{"type": "rain", "stack": {"dataset": "warmth"}}]
        details = refused(client, example("terrain.simulate", water=water))
        (detail,) = details.values()
        assert set(details) == {"/spec/water/0/stack/dataset"}
        assert "needs at least 1 variable of rain" in detail
        assert "such as mm h-1" in detail
        for name in ("radar", "old_radar"):
            water = [{"type": "rain", "stack": {"dataset": name}}]
            accepted(client, example("terrain.simulate", water=water))

    def test_maps_and_rasters_need_elevations(self, client, datasets):
        spec = example("terrain.simulate", manning_map={"dataset": "digits", "cell_size_m": 1.0})
        assert set(refused(client, spec)) == {"/spec/manning_map/dataset"}
        scenes = {"synthetic": None, "rasters": [{"dataset": "birds"}], "tile": 64}
        scenes["test_rasters"] = [{"dataset": "plain_npy"}]
        spec = example("terrain.train", scenes=scenes)
        assert set(refused(client, spec)) == {"/spec/scenes/rasters/0/dataset"}

    def test_saliency_needs_images_and_nets(self, client, datasets):
        images = [{"dataset": "hills"}, {"dataset": "birds"}]
        spec = example("saliency.map", images=images)
        assert set(refused(client, spec)) == {"/spec/images/0/dataset"}
        spec = example("saliency.map", model={"dataset": "birds"})
        assert set(refused(client, spec)) == {"/spec/model/dataset"}
        baseline = {"id": "other_image", "image": {"dataset": "hills"}}
        spec = example("saliency.map", baselines=[baseline])
        assert set(refused(client, spec)) == {"/spec/baselines/0/image/dataset"}

    def test_other_sets_of_a_test_are_labelled(self, client, datasets):
        ood = [{"dataset": "birds"}, {"dataset": "photos"}]
        spec = example("freetickets.train", evaluate={"ood": ood})
        assert set(refused(client, spec)) == {"/spec/evaluate/ood/1/dataset"}

    def test_only_own_datasets_are_offered(self, client, datasets):
        add_dataset("birds", "tenant_other")
        (detail,) = refused(client, example("lcw.train", data={"dataset": "photos"})).values()
        assert detail.count("birds") == 1

    def test_a_retry_is_held_to_the_same(self, client, datasets):
        job = client.post("/v1/jobs", json={"spec": example("lcw.train")}).json()
        client.post(f"/v1/jobs/{job['id']}/cancel", json={})
        body = {"from": "scratch", "overrides": {"data": {"dataset": "photos"}}}
        answer = client.post(f"/v1/jobs/{job['id']}/retry", json=body)
        errors = problem(answer, 422, "validation_failed")["errors"]
        assert [error["pointer"] for error in errors] == ["/overrides/data/dataset"]


@ONE_DATABASE
class TestSizes:
    @pytest.mark.parametrize(
        ("name", "fields", "pointer", "complaint"),
        [
            ("one_class", {}, "/spec/data/dataset", "needs at least 2 classes"),
            ("untested", {"images": {}}, "/spec/data/dataset", "needs at least 1 test images"),
            ("few", {"images": {"subset": 25}}, "/spec/images/subset", "at least 25 training"),
            ("few", {"images": {}, "batch_size": 25}, "/spec/batch_size", "the 22 training images"),
            ("birds", {"images": {"subset": 40}, "batch_size": 41}, "/spec/batch_size", "lower it"),
            ("dots", {"images": {}}, "/spec/images/image_size", "give images.image_size of 4"),
        ],
    )
    @pytest.mark.parametrize("kind", TRAININGS[:4])
    def test_too_little_to_train(self, client, datasets, kind, name, fields, pointer, complaint):
        details = refused(client, example(kind, data={"dataset": name}, **fields))
        assert complaint in details[pointer], details

    @pytest.mark.parametrize("kind", TRAININGS[:4])
    def test_a_batch_that_nobody_asked_for_is_all_there_is(self, client, datasets, kind):
        spec = example(kind, data={"dataset": "few"}, images={"image_size": 16}, max_steps=20)
        del spec["batch_size"]
        spec.pop("epochs", None)
        if kind.startswith("selective"):
            spec["selective"] = {"enabled": False}
            spec["export"] = "none"
        assert accepted(client, spec)["batch_size"] > 24

    @pytest.mark.parametrize(
        ("name", "fields", "pointer"),
        [
            ("one_class", {}, "/spec/data/dataset"),
            ("few", {}, "/spec/images/subset"),
            ("few", {"images": {}}, "/spec/images/val_fraction"),
            ("wide", {}, "/spec/images/image_size"),
            ("digits", {"phase1": {"batch_size": 181}}, "/spec/phase1/batch_size"),
            ("digits", {"phase2": {"batch_size": 181}}, "/spec/phase2/batch_size"),
            (
                "digits",
                {"evaluation": {"features": "fd_effnetlite0", "num_samples": 2000}},
                "/spec/evaluation/features",
            ),
        ],
    )
    def test_too_little_for_a_generator(self, client, datasets, name, fields, pointer):
        spec = example("lcw.train", data={"dataset": name}, **fields)
        assert pointer in refused(client, spec)

    @pytest.mark.parametrize(
        ("image", "most"),
        [
            ({"dataset": "photos", "index": 99}, 7),
            ({"dataset": "photos", "index": 7}, 7),
            ({"dataset": "holiday", "index": 3}, 3),
            ({"dataset": "digits", "index": 360}, 360),
            ({"dataset": "birds", "index": 800, "split": "train"}, 800),
        ],
    )
    def test_an_image_beyond_the_last(self, client, datasets, image, most):
        first = {"dataset": "birds", "index": 1}
        details = refused(client, example("saliency.map", images=[first, image]))
        assert set(details) == {"/spec/images/1/index"}
        assert f"at least {image['index'] + 1} " in details["/spec/images/1/index"]
        images = [first, image | {"index": most - 1}]
        accepted(client, example("saliency.map", images=images))

    def test_channels_that_the_net_does_not_take(self, client, datasets):
        spec = example("saliency.map", images=[{"dataset": "five_bands"}])
        (detail,) = refused(client, spec).values()
        assert "needs 1 or 3 channels" in detail

    def test_classes_that_the_net_does_not_have(self, client):
        for target in (1000, [3, 1000]):
            details = refused(client, example("saliency.map", target=target))
            assert set(details) == {"/spec/target"}
        accepted(client, example("saliency.map", target=999))

    @pytest.mark.parametrize(
        ("kind", "fields", "pointer"),
        [
            (
                "terrain.simulate",
                {
                    "terrain": {
                        "dataset": "hills",
                        "area": {"row": 300, "rows": 101, "columns": 300},
                    }
                },
                "/spec/terrain/area",
            ),
            (
                "terrain.simulate",
                {"terrain": {"dataset": "hills"}, "rain_map": {"dataset": "plain_npy"}},
                "/spec/rain_map",
            ),
            (
                "terrain.compare",
                {"terrain": {"synthetic": {"rows": 8, "columns": 8}}, "factor": 16},
                "/spec/factor",
            ),
            (
                "terrain.train",
                {"scenes": {"rasters": [{"dataset": "hills"}], "tile": 512}, "factor": 16},
                "/spec/scenes/tile",
            ),
            (
                "terrain.train",
                {"scenes": {"rasters": [{"dataset": "hills"}], "tile": 128}},
                "/spec/scenes/tile",
            ),
            ("terrain.train", {"batch_size": 3}, "/spec/batch_size"),
        ],
    )
    def test_terrains_of_other_sizes(self, client, datasets, kind, fields, pointer):
        assert pointer in refused(client, example(kind, **fields))


@ONE_DATABASE
class TestCellSize:
    @pytest.mark.parametrize("kind", TERRAINS)
    @pytest.mark.parametrize(("given", "used"), [({}, 83.0), ({"cell_size_m": 90.0}, 90.0)])
    def test_jacksboro_in_degrees(self, client, kind, given, used):
        """Its cells are not square: the square of their area is taken, and the spec shows it."""
        spec = example(kind, terrain={"dataset": "jacksboro_dem", **given}, duration_s=60.0)
        if kind == "terrain.downsample":
            del spec["duration_s"]
        assert accepted(client, spec)["terrain"]["cell_size_m"] == used

    def test_that_nothing_tells(self, client, datasets):
        spec = example("terrain.simulate", terrain={"dataset": "in_degrees"})
        details = refused(client, spec)
        assert "give cell_size_m" in details["/spec/terrain/cell_size_m"]
        spec["terrain"]["cell_size_m"] = 30.0
        accepted(client, spec)

    def test_of_the_upload_is_used(self, client, datasets):
        """An npy file does not tell it: it was given with them, and jobs asked for it again."""
        spec = example("terrain.simulate", terrain={"dataset": "plain_npy"})
        assert accepted(client, spec)["terrain"]["cell_size_m"] == 10.0

    @pytest.mark.parametrize("name", ["plain_npy", "hills"])
    def test_another_than_is_known_is_refused(self, client, datasets, name):
        spec = example("terrain.simulate", terrain={"dataset": name, "cell_size_m": 20.0})
        details = refused(client, spec)
        assert "leave cell_size_m out" in details["/spec/terrain/cell_size_m"]
        spec["terrain"] = {"dataset": name, "cell_size_m": 10.0}
        accepted(client, spec)


@ONE_DATABASE
class TestNets:
    def test_weights_need_an_architecture(self, client, datasets):
        details = refused(client, example("saliency.map", model={"dataset": "weights"}))
        assert set(details) == {"/spec/model/architecture"}
        architecture = {"library": "timm", "name": "resnet18"}
        model = {"dataset": "weights", "architecture": architecture}
        accepted(client, example("saliency.map", model=model))

    def test_programs_hold_their_own(self, client, datasets):
        model = {"dataset": "program", "architecture": {"library": "timm", "name": "resnet18"}}
        details = refused(client, example("saliency.map", model=model))
        assert set(details) == {"/spec/model/architecture"}
        accepted(client, example("saliency.map", model={"dataset": "program"}))

    def test_features_of_a_program(self, client, datasets):
        evaluation = {"features": "fid_inception", "num_samples": 3000}
        for name, field in (("weights", "dataset"), ("photos", "dataset")):
            asked = evaluation | {"inception": {"dataset": name}}
            spec = example("lcw.train", evaluation=asked)
            assert f"/spec/evaluation/inception/{field}" in refused(client, spec)


@ONE_DATABASE
class TestArtifacts:
    @pytest.mark.parametrize(
        ("spec", "pointer", "good"),
        [
            (
                example("lcw.sample"),
                "/model",
                ("lcw.train", "weights.safetensors", "weights"),
            ),
            (
                example("lcw.train"),
                "/phase1_from",
                ("lcw.train", "checkpoints/step-00000001.safetensors", "checkpoint"),
            ),
            (
                example("saliency.map"),
                "/model",
                ("freetickets.train", "tickets/ticket-0.safetensors", "weights"),
            ),
            (
                example("terrain.simulate"),
                "/terrain",
                ("terrain.downsample", "coarse.tif", "raster"),
            ),
            (
                example("terrain.downsample"),
                "/net",
                ("terrain.train", "weights.safetensors", "weights"),
            ),
            (
                example("terrain.train"),
                "/floods",
                ("terrain.train", "floods.safetensors", "samples"),
            ),
            (
                example("freetickets.train"),
                "/resume_from",
                ("freetickets.train", "checkpoints/step-00000001.safetensors", "checkpoint"),
            ),
        ],
    )
    def test_only_what_the_kind_can_read(self, client, spec, pointer, good):
        name = pointer.removeprefix("/")
        for wrong in ((good[0], "report.json", "report"), ("lcw.sample", "samples.png", "image")):
            ref = add_artifact(*wrong)
            answer = client.post("/v1/jobs", json={"spec": spec | {name: ref}})
            (error,) = problem(answer, 422, "validation_failed")["errors"]
            assert error["pointer"] == f"/spec{pointer}/artifact"
            assert wrong[0] in error["detail"]
        accepted(client, spec | {name: add_artifact(*good)})


def test_every_training_of_a_classifier_is_one_whose_nets_are_explained():
    trainings = {kind for kind, spec in kinds().items() if issubclass(spec, SupervisedSpec)}
    leave_none = {"dynamic_downsampling.plan", "saliency.roar"}
    assert trainings - leave_none == set(CLASSIFIERS)
    for kind in CLASSIFIERS:
        weights = [each.name for each in kinds()[kind].artifacts if each.role in WEIGHTS]
        known = [name for name in weights if any(fnmatchcase(name, p) for p in CLASSIFIER_FILES)]
        assert set(weights) - set(known) <= {"ensemble.safetensors"}  # many nets in one


def _datasets_of(kind: str) -> dict[str, Any]:
    """A spec of the kind that names a dataset wherever one can be named."""
    image = {"dataset": "digits"}
    terrain = {"dataset": "hills", "cell_size_m": 1.0}
    more: dict[str, dict[str, Any]] = {
        "freetickets.train": {"evaluate": {"ood": [{"dataset": "other"}]}},
        "lcw.train": {
            "evaluation": {
                "features": "fid_inception",
                "num_samples": 3000,
                "inception": {"dataset": "program"},
            }
        },
        "terrain.train": {
            "scenes": {"rasters": [terrain], "test_rasters": [terrain | {"dataset": "other"}]}
        },
    }
    if kind.startswith("saliency") and kind != "saliency.roar":
        baseline = {"id": "other_image", "image": image}
        graders = [{"id": "deletion", "baseline": baseline}]
        fields = {"model": {"dataset": "program"}, "images": [image], "baselines": [baseline]}
        return fields | ({} if kind == "saliency.map" else {"graders": graders})
    if kind in TERRAINS:
        maps = {} if kind == "terrain.downsample" else {"manning_map": terrain, "rain_map": terrain}
        return {"terrain": terrain, **maps}
    return more.get(kind, {})


@pytest.mark.parametrize("kind", kinds())
def test_every_reference_has_a_need(kind):
    """A kind that forgets one would accept whatever is named there."""
    spec, _ = load_stored(example(kind, **_datasets_of(kind)))
    named = {at for at, ref in spec.references() if isinstance(ref, DatasetRef)}
    needed = {need.pointer for need in spec.needs() if isinstance(need, DatasetNeed)}
    assert named == needed
    schema = json.dumps(kinds()[kind].model_json_schema())
    assert bool(named) == ('"dataset"' in schema)


def test_a_flood_of_endless_steps_is_refused_at_submission(client):
    spec = smallest("terrain.simulate") | {"solver": {"alpha": 5e-324}}
    answer = client.post("/v1/jobs?dry_run=true", json={"spec": spec})
    assert answer.status_code == 422
    assert "larger alpha" in answer.json()["detail"]
