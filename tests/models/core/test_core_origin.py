"""A run goes on where its checkpoint came from, or says what is different."""

import json

import pytest
import torch

from models.core import device, origin
from models.core.errors import SpecError


def warnings(run):
    lines = (run.dir / "events.jsonl").read_text().splitlines()
    return [event["message"] for event in map(json.loads, lines)]


def test_the_same_place_says_nothing(new_run):
    run = new_run()
    origin.check({"origin": origin.describe(run)}, run)
    origin.check({}, run)  # of an earlier release
    assert not warnings(run)


def test_what_changes_bits_is_named(new_run):
    run = new_run()
    there = origin.describe(run) | {"threads": 7, "torch": "1.0"}
    origin.check({"origin": there}, run)
    (told,) = warnings(run)
    assert f"threads 7 -> {torch.get_num_threads()}" in told
    assert "torch 1.0 ->" in told
    assert "device" not in told


def test_another_number_of_processes_is_refused(new_run):
    run = new_run()
    there = origin.describe(run) | {"ranks": 2}
    with pytest.raises(SpecError, match="written by 2 processes, this run has 1") as refused:
        origin.check({"origin": there}, run)
    assert refused.value.pointer == "/resume_from"


def test_threads_are_those_of_the_spec():
    before = torch.get_num_threads()
    try:
        device.use_threads(before + 1)
        assert torch.get_num_threads() == before + 1
        device.use_threads(None)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_progress_is_completed_once(new_run):
    run = new_run()
    run.complete_progress()  # of a run without any
    run.progress(3, 8, phase="train")
    run.complete_progress()
    run.progress(8, 8)
    run.complete_progress()
    lines = (run.dir / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 8, 8]
