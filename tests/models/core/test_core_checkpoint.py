"""Files of nets and trainings: whole or absent, never pickled, enough to rebuild the net."""

import json

import pytest
import torch
from safetensors.torch import save_file

from models.core import checkpoint
from models.core.errors import DataError
from models.nets.build import build_net
from models.nets.files import load_net

NET = {"name": "resnet8", "width": 16, "stem": "3x3"}
INPUT = {"height": 16, "width": 12, "channels": 1, "mean": [0.5], "std": [0.25]}
DESCRIPTION = {"net": NET, "classes": ["cat", "dog"], "input": INPUT}


@pytest.fixture
def net():
    torch.manual_seed(1)
    return build_net(NET, 2, 1).eval()


@pytest.mark.parametrize("prefix", ["", "net."], ids=["weights", "checkpoint"])
def test_net_comes_back(net, prefix, tmp_path):
    """From final weights and from a checkpoint, with the same logits and all it needs."""
    tensors = {f"{prefix}{name}": x for name, x in net.state_dict().items()}
    if prefix:
        tensors["momentum.head.weight"] = torch.zeros(2, 64)
    checkpoint.write(tmp_path / "file.safetensors", tensors, DESCRIPTION)
    loaded = load_net(tmp_path / "file.safetensors", "cpu")
    x = torch.randn(2, 1, 16, 12)
    with torch.no_grad():
        assert torch.equal(loaded.net(x), net(x))
    assert not loaded.net.training
    assert loaded[1:] == (["cat", "dog"], [0.5], [0.25], (16, 12), 1, "squash")


def test_damaged_files_are_refused(net, tmp_path):
    """At any cut and with flipped header bytes: an error of the data, never another one."""
    path = tmp_path / "file.safetensors"
    checkpoint.write(path, net.state_dict(), DESCRIPTION)
    whole = path.read_bytes()
    for cut in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match="damaged"):
            checkpoint.read(path)
    path.write_bytes(b"\xff" * 16 + whole[16:])
    with pytest.raises(DataError):
        load_net(path, "cpu")
    with pytest.raises(DataError):
        load_net(tmp_path / "absent.safetensors", "cpu")


@pytest.mark.parametrize(
    "change",
    [
        {"net": {"name": "vgg"}},
        {"net": NET | {"width": 32}},
        {"classes": ["only one"]},
        {"input": {}},
        {"format": 99},
    ],
)
def test_descriptions_that_do_not_fit_are_refused(net, change, tmp_path):
    path = tmp_path / "file.safetensors"
    checkpoint.write(path, net.state_dict(), DESCRIPTION | change)
    with pytest.raises(DataError):
        load_net(path, "cpu")


def test_foreign_safetensors_are_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"sextant": json.dumps([1])})
    with pytest.raises(DataError, match="not written by this version"):
        load_net(path, "cpu")


def test_deep_json_in_the_header_is_refused(tmp_path):
    """Beyond Python's stack, by the reader of every net and every resumed run."""
    path = tmp_path / "deep.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"sextant": "[" * 200_000 + "]" * 200_000})
    with pytest.raises(DataError, match="nested too deeply"):
        checkpoint.read(path)
    with pytest.raises(DataError, match="nested too deeply"):
        load_net(path, "cpu")


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    """The name points to whole bytes at all times."""
    path = tmp_path / "file.safetensors"
    checkpoint.write(path, {"x": torch.zeros(3)}, {})

    def full_disk(tensors, part, metadata):
        part.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        checkpoint.write(path, {"x": torch.ones(3)}, {})
    assert torch.equal(checkpoint.read(path)[0]["x"], torch.zeros(3))


def test_names_sort_like_steps():
    steps = [1, 9, 10, 100, 99_999_999]
    names = [checkpoint.name_of(step) for step in steps]
    assert names == sorted(names)
    assert names[0] == "checkpoints/step-00000001.safetensors"


def test_random_state_comes_back():
    state = checkpoint.random_state("cpu")
    first = torch.rand(3)
    checkpoint.restore_random_state(state, "cpu")
    assert torch.equal(torch.rand(3), first)
