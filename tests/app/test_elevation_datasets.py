"""Elevations: what was given at the upload is used by every job, what was assumed is shown."""

import io

import numpy as np
import pytest

from app.db.session import make_session
from app.services import datasets
from models.data import files

URL = "/v1/datasets"


def npy(z):
    file = io.BytesIO()
    np.save(file, z)
    return file.getvalue()


@pytest.fixture
def imported(client, tmp_path):
    """An npy of heights, uploaded with options and checked by the checker's own code."""
    z = np.full((8, 8), 5.0, np.float32)
    z[0, 0] = -9999
    body = {"name": "dem", "format": "elevation", "options": {"cell_size_m": 10, "nodata": -9999}}
    assert client.post(URL, json=body).status_code == 201
    headers = {"Content-Type": "application/octet-stream"}
    assert client.put(f"{URL}/dem/content", content=npy(z), headers=headers).status_code == 200
    assert client.post(f"{URL}/dem/finalize").status_code == 202
    (tmp_path / "content").write_bytes(npy(z))
    with make_session() as session:
        row = datasets.claim_check(session, "w1")
        result = files.check(tmp_path / "content", row.format, row.options)
        assert datasets.finish_check(session, row, "w1", result)
    return client.get(f"{URL}/dem").json()


def test_options_of_the_upload_reach_the_job(client, imported):
    spec = {"kind": "terrain.simulate", "terrain": {"dataset": "dem"}}
    job = client.post("/v1/jobs", json={"spec": spec}).json()
    terrain = job["resolved_spec"]["terrain"]
    assert (terrain["cell_size_m"], terrain["nodata"]) == (10.0, -9999.0)
    spec["terrain"]["cell_size_m"] = 5.0
    answer = client.post("/v1/jobs", json={"spec": spec})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/spec/terrain/cell_size_m"


def test_what_was_assumed_is_shown(imported):
    assert imported["counts"] == {"rows": 8, "columns": 8, "cell_size_m": 10, "nodata": -9999}
    assert imported["contents"]["notes"] == ["cells of the value -9999 have no height"]


def test_options_are_of_elevations(client):
    body = {"name": "x", "format": "npz", "options": {"nodata": 0}}
    answer = client.post(URL, json=body)
    assert answer.status_code == 422
    assert "nodata with format npz" in answer.text
