"""GeoTIFF in, GeoTIFF out over HTTP: the four kinds of terrain on an uploaded raster, refusals."""

import numpy as np
import pytest
import rasterio
from rasterio import Affine

from models.terrain.dem.synthetic import generate
from models.terrain.spec.terrains import Synthetic
from sextant_client import ApiError, Client
from tests.live.conftest import ONE_DATABASE

pytestmark = ONE_DATABASE

ORIGIN = Affine(2.0, 0, 500_000, 0, -2.0, 6_000_000)
ROWS, COLUMNS = 45, 70
NODATA = -32_000.0
RAIN = [{"type": "rain", "mm_per_h": 60.0}, {"type": "outflow", "edge": "right"}]
SHORT = {"duration_s": 60.0, "water": RAIN}
KINDS = {
    "downsample": {"factor": 8, "tune": {"duration_s": 60.0, "water": [RAIN], "steps": 2}},
    "simulate": {**SHORT, "outputs": 2},
    "compare": {**SHORT, "factor": 8, "methods": ["mean", "channel"]},
}


FINE = ("ground.tif",)  # on the cells of the terrain whatever the factor


def write(path, z, crs="EPSG:28356", transform=ORIGIN):
    """A raster as users have them: projected, its own nodata value."""
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=z.shape[0], width=z.shape[1], dtype="float32",
        crs=crs, transform=transform, nodata=NODATA,
    ) as raster:  # fmt: skip
        raster.write(z.astype(np.float32), 1)
    return path


def heights():
    z = generate(Synthetic(rows=ROWS, columns=COLUMNS, cell_size_m=2.0), 0).numpy() + 900
    z[:9, :9] = NODATA
    return z


@pytest.fixture(scope="module")
def uploaded(live, tmp_path_factory):
    """Name of a raster that the service has checked."""
    path = write(tmp_path_factory.mktemp("raster") / "valley.tif", heights())
    with Client(live.url, live.key) as client:
        dataset = client.upload("valley", [path])
    assert dataset["counts"] == {"rows": ROWS, "columns": COLUMNS, "cell_size_m": 2.0}
    return "valley"


def run(client, **spec):
    return client.wait(client.submit(spec, resources={"cpus": 1})["id"])


@pytest.mark.parametrize(
    "action",
    [kind if kind == "compare" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS],
)
def test_rasters_keep_their_georeference(action, client, uploaded, tmp_path):
    """Every output raster: CRS, upper-left corner, cell size, nodata as in the input."""
    job = run(client, kind=f"terrain.{action}", terrain={"dataset": uploaded}, **KINDS[action])
    assert job["status"] == "succeeded", job["error"]
    names = [a["name"] for a in client.artifacts(job["id"]) if a["name"].endswith(".tif")]
    assert names
    for name in names:
        scale = 1 if name in FINE else KINDS[action].get("factor", 1)
        folder = tmp_path / name.replace("/", "-")
        with rasterio.open(client.download(job["id"], name, folder)) as raster:
            assert raster.crs.to_epsg() == 28356, name
            assert raster.transform == ORIGIN @ Affine.scale(scale, scale), name
            assert raster.shape == (-(-ROWS // scale), -(-COLUMNS // scale)), name
            band = raster.read(1, masked=True)
        assert np.isfinite(band.compressed()).all(), name
        assert band.mask[0, 0], name
        dry = ("arrival.tif", "max_level.tif")  # where no water came there is no value
        assert not band.mask[-1, -1] or name in dry, name


@pytest.mark.slow
def test_net_of_a_training_makes_the_raster_coarse(client, uploaded, tmp_path):
    """Train on tiles of the uploaded raster, then downsample it with the net."""
    held_out = {"synthetic": {"rows": 16, "columns": 16, "cell_size_m": 2.0}, "train": 0, "test": 1}
    job = run(
        client, kind="terrain.train", factor=8, width=8, epochs=1, batch_size=4, **SHORT,
        scenes={**held_out, "tile": 16, "rasters": [{"dataset": uploaded}]},
    )  # fmt: skip
    assert job["status"] == "succeeded", job["error"]
    net = {"job": job["id"], "artifact": "weights.safetensors"}
    made = run(
        client, kind="terrain.downsample", terrain={"dataset": uploaded}, factor=8, net=net
    )  # fmt: skip
    assert made["status"] == "succeeded", made["error"]
    with rasterio.open(client.download(made["id"], "coarse.tif", tmp_path)) as raster:
        coarse = raster.read(1, masked=True)
    whole = heights()[16:24, 16:24].mean()
    assert coarse[2, 2] == pytest.approx(whole, abs=2.0)  # at its own height above the sea


UNUSABLE = {
    "degrees": (1.0, {"crs": "EPSG:4326", "transform": Affine(0.1, 0, 5, 0, -0.1, 50)}, "degrees"),
    "oblong": (1.0, {"transform": Affine(2, 0, 0, 0, -3, 0)}, "must be square"),
    "nothing": (NODATA, {}, "every cell is nodata"),
    "nan": (np.nan, {}, "NaN"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_raster_is_refused_with_the_reason(name, client, tmp_path):
    """Degrees, cells that are not square, nodata everywhere, NaN: at upload, before any job."""
    value, options, reason = UNUSABLE[name]
    z = np.full((12, 12), value)
    with pytest.raises(ApiError, match=reason) as caught:
        client.upload(name, [write(tmp_path / f"{name}.tif", z, **options)])
    assert caught.value.code == "dataset_failed"


def test_an_area_beyond_the_raster_is_refused_before_a_job(client, uploaded):
    """422 with the field, what it needs, what there is."""
    area = {"rows": 40_000, "columns": 25_000}
    spec = {"kind": "terrain.simulate", "terrain": {"dataset": uploaded, "area": area}}
    with pytest.raises(
        ApiError, match=r"terrain/area: needs at least 40000 rows; .* 45 x 70 cells"
    ) as caught:
        client.submit(spec)
    assert caught.value.status == 422


@pytest.mark.slow
def test_inflow_off_the_edge_fails_with_the_reason(client, uploaded):
    """Known only from the raster: the job fails, naming the segment and the edge's length."""
    inflow = {"type": "inflow", "edge": "left", "centre_m": 85.0, "length_m": 20.0}
    job = run(
        client, kind="terrain.simulate", terrain={"dataset": uploaded}, duration_s=60.0,
        water=[{**inflow, "discharge_m3_s": 1.0}],
    )  # fmt: skip
    assert job["status"] == "failed"
    assert "water.0: the segment from 75 to 95 m is off the left" in job["error"]["message"]
    assert "90 m" in job["error"]["message"]


def test_map_of_other_values_fails_with_the_reason(client, uploaded):
    """Heights instead of roughness: refused by their range when they are read."""
    job = run(
        client, kind="terrain.simulate", terrain={"dataset": uploaded}, **SHORT,
        manning_map={"dataset": uploaded},
    )  # fmt: skip
    assert job["status"] == "failed"
    assert "manning_map: values from 89" in job["error"]["message"]
    assert "0.001 to 1 are allowed" in job["error"]["message"]
