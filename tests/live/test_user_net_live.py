"""A user's own net over HTTP: exported, uploaded, explained."""

import numpy as np
import pytest
import torch

from models.nets.build import build_net
from tests.live.conftest import ONE_DATABASE

pytestmark = ONE_DATABASE


@pytest.mark.slow
def test_an_exported_net_is_uploaded_and_explained(client, tmp_path):
    """An occlusion map of an exported net; no package of the user's is needed."""
    torch.manual_seed(0)
    net = build_net({"name": "resnet8", "width": 16}, 4, 3).eval()
    images = (torch.zeros(2, 3, 32, 32),)
    program = torch.export.export(net, images, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, tmp_path / "mine.pt2")
    dataset = client.upload("mine", [tmp_path / "mine.pt2"])
    assert dataset["format"] == "net"
    spec = {
        "kind": "saliency.map",
        "model": {"dataset": "mine"},
        "images": [{"dataset": "photos", "index": 0}],
        "methods": [{"id": "occlusion", "window": 8, "stride": 8}],
    }
    job = client.wait(client.submit(spec, resources={"cpus": 1})["id"])
    assert job["status"] == "succeeded", job["error"]
    names = [a["name"] for a in client.artifacts(job["id"]) if a["name"].endswith(".npz")]
    with np.load(client.download(job["id"], names[0], tmp_path)) as maps:
        full_size = [maps[name] for name in maps.files if maps[name].shape[-2:] == (32, 32)]
    assert full_size
    assert np.ptp(full_size[0]) > 0
