"""The form of a new job: every field of every kind, checked while one types."""

import json
import re

import pytest
from playwright.sync_api import expect

from app.db.session import make_session
from app.db.tables import Job
from app.web.spec_form import Group, build
from models.catalog import kinds
from tests.app.factories import add_job
from tests.web.conftest import LOOKS, photograph, violations
from tests.web.sample import end, training

TRAIN = "dynamic_downsampling.train"


def pointers(group: Group) -> set[str]:
    return {field.pointer for field in group.fields}.union(*map(pointers, group.groups))


def declared(schema, definitions, at="") -> set[str]:
    """Pointers of the fields of a schema, down to where it branches."""
    found = set()
    for name, field in schema.get("properties", {}).items():
        others = [p for p in field.get("anyOf", [field]) if p.get("type") != "null"]
        inner = others[0] if len(others) == 1 else {}
        while "$ref" in inner:
            inner = definitions[inner["$ref"].rpartition("/")[2]]
        if name == "kind" or name in ("sha256", "read"):
            continue
        if "properties" in inner and set(inner["properties"]) != {"job", "artifact", "sha256"}:
            found |= declared(inner, definitions, f"{at}/{name}")
        else:
            found.add(f"{at}/{name}")
    return found


@pytest.mark.parametrize("kind", kinds())
def test_every_field_has_an_input(kind):
    spec = kinds()[kind]
    schema = spec.model_json_schema()
    form = build(spec, spec.minimal_example)
    constants = declared(schema, schema["$defs"]) - pointers(form)
    for pointer in constants:  # those that can have one value only
        name = pointer.rpartition("/")[2]
        assert re.search(rf'"{name}": \{{[^{{}}]*"const"', json.dumps(schema)), pointer
    assert pointers(form) <= declared(schema, schema["$defs"])


def test_bounds_defaults_and_choices_are_told():
    form = build(kinds()[TRAIN], {"optimizer": {"lr": 0.2}})
    optimizer = next(group for group in form.groups if group.label == "optimizer")
    fields = {field.label: field for field in optimizer.fields}
    assert fields["lr"].hint == "above 0; at most 100; default 0.1"
    assert (fields["lr"].value, fields["lr"].shown) == ("0.2", True)
    assert (fields["momentum"].value, fields["momentum"].shown) == ("", False)
    assert fields["schedule"].choices == ["cosine", "linear", "constant"]
    assert fields["nesterov"].form == "truth"


def test_what_a_form_begins_with_is_what_it_sends(user):
    """For every kind: the example goes through the form unchanged, and the service takes it."""
    for kind, spec in kinds().items():
        user.goto(f"/new?kind={kind}")
        expect(user.locator("#verdict .status")).to_have_class(re.compile("succeeded|failed"))
        sent = json.loads(user.locator("#as-json").text_content())
        assert sent == json.loads(json.dumps(spec.minimal_example)), kind
        user.faults.clear()  # a refusal of an example that names another job is told in the console


def test_a_refusal_stands_at_its_field_and_goes_when_it_is_mended(user):
    user.goto(f"/new?kind={TRAIN}")
    submit = user.get_by_role("button", name="Submit")
    expect(submit).to_be_enabled()
    size = user.get_by_label("batch_size")
    size.fill("1")
    field = user.locator('[data-field="/batch_size"]')
    expect(field.locator(".refusal")).to_contain_text("greater than or equal to 2")
    expect(size).to_have_attribute("aria-invalid", "true")
    expect(submit).to_be_disabled()
    size.fill("32")
    expect(field.locator(".refusal")).to_be_hidden()
    expect(submit).to_be_enabled()
    user.get_by_label("dataset").fill("digitz")
    expect(user.locator('[data-field="/data/dataset"] .refusal')).to_contain_text("did you mean")
    user.faults.clear()


def test_a_field_out_of_sight_is_opened_when_it_is_refused(user):
    job = add_job(kind=TRAIN, spec=dict(kinds()[TRAIN].minimal_example) | {"seed": -5})
    user.goto(f"/new?clone={job}")
    user.get_by_text("More fields of the job").click()
    warmup = user.get_by_label("warmup", exact=True)
    warmup.fill("2")
    user.get_by_text("More fields of the job").click()
    expect(user.locator('[data-field="/optimizer/warmup"] .refusal')).to_be_visible()
    user.faults.clear()


def test_a_preset_a_choice_and_a_submission(user):
    user.goto("/new")
    card = user.locator("article").filter(has_text=TRAIN)
    card.get_by_role("link", name="digits").click()
    expect(user.get_by_label("epochs", exact=True)).to_have_value("20")
    user.get_by_label("epochs", exact=True).fill("2")
    user.get_by_label("Name of the job").fill("from the form")
    user.get_by_label("Device").select_option("cpu")
    submit = user.get_by_role("button", name="Submit")
    expect(submit).to_be_enabled()
    submit.click()
    user.wait_for_url(re.compile(r"/jobs/job_"))
    with make_session(write=False) as session:
        job = session.get_one(Job, user.url.rpartition("/")[2])
    assert (job.name, job.device, job.spec["epochs"]) == ("from the form", "cpu", 2)
    preset = kinds()[TRAIN].presets["digits"]
    assert job.spec["downsample"] == json.loads(json.dumps(preset["downsample"]))


def test_a_job_is_cloned_and_an_artifact_is_picked(user, tmp_path):
    run = training(tmp_path, "source", steps=3)
    end(run, exit_code=0)
    user.goto(f"/jobs/{run.job_id}")
    user.get_by_role("link", name="Clone").click()
    expect(user.get_by_label("Name of the job")).to_have_value("source")
    offered = user.locator("#artifacts option").first
    expect(offered).to_have_attribute("value", f"{run.job_id}/weights.safetensors")
    user.get_by_text("More fields of the job").click()
    user.get_by_label("resume_from").fill(f"{run.job_id}/weights.safetensors")
    refusal = user.locator('[data-field="/resume_from"] .refusal')
    expect(refusal).to_contain_text("checkpoint")  # weights are no checkpoint, says the service
    user.faults.clear()


def test_unknown_kinds_presets_and_jobs_are_not_found(visitor):
    for query in ("kind=lcw.trai", "kind=lcw.train&preset=digit", "clone=job_" + "0" * 32):
        answer = visitor.get(f"/new?{query}")
        assert answer.status_code == 404
    assert "did you mean" in visitor.get("/new?kind=lcw.trai").text


@pytest.mark.parametrize("look", LOOKS[:3], ids=str)
def test_looks(user, look):
    look.apply(user)
    user.goto(f"/new?kind={TRAIN}&preset=digits")
    expect(user.locator("#verdict .status")).to_have_text("Can be submitted")
    photograph(user, "new", look)
    assert violations(user) == []
    user.goto("/new")
    assert violations(user) == []
