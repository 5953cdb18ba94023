"""Fields over time as NetCDF: what a check tells, and what is refused."""

from types import SimpleNamespace

import h5netcdf
import h5py
import numpy as np
import pytest
from rasterio.crs import CRS

from models.core.errors import DataError
from models.core.needs import DatasetInfo
from models.data import files
from models.data.field_axes import crs_of
from models.data.field_units import depth_of, seconds_of
from models.data.fields import open_fields
from tests.models.terrain.stack_cases import write_stack

X, Y = np.array([5.0, 15, 25]), np.array([35.0, 25])


@pytest.fixture
def path(tmp_path):
    """Two hours of radar on 2 x 3 cells, one value of it missing."""
    rates = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    rates[1, 0, 0] = np.nan
    since = "hours since 2024-5-1 06:30:00"
    return write_stack(tmp_path / "content", [3, 4], rates, X, Y, time_units=since)


def test_a_check_tells_what_is_there(path):
    found = files.check(path, "netcdf", {})
    assert (found["frames"], found["variables"], found["rain_variables"]) == (2, 1, 1)
    about, start = found.pop("contents")["notes"]
    assert DatasetInfo("radar", found).form == "fields over time"
    assert str(DatasetInfo("radar", found)) == "2 fields over time of 1 variables"
    assert "2 times from 0 to 3600 s, 2 x 3 cells, values from 0 to 11, 1 without" in about
    assert start == "0 s is 2024-05-01T09:30:00"


@pytest.mark.parametrize(
    ("given", "rain"),
    [
        ({"units": "K"}, 0),
        ({"units": "mm"}, 0),
        ({"units": "mm", "bounds": np.array([[0.0, 60], [60, 120]])}, 0),
        ({"units": "kg m-2 s-1"}, 1),
    ],
)
def test_a_check_counts_the_variables_that_are_rain(given, rain, tmp_path):
    path = write_stack(tmp_path / "content", [0, 60], np.ones((2, 2, 3)), X, Y, **given)
    assert files.check(path, "netcdf", {})["rain_variables"] == rain


def test_parts_of_frames_are_read_north_up(tmp_path):
    rates = np.arange(6.0).reshape(1, 2, 3)
    path = write_stack(tmp_path / "f", [0], rates, X[::-1], Y[::-1])
    with open_fields(path) as fields:
        assert fields.x.tolist() == X.tolist()
        assert fields.y.tolist() == Y.tolist()
        assert fields.frame(0).tolist() == rates[0, ::-1, ::-1].tolist()
        assert fields.frame(0, slice(0, 1), slice(1, 3)).tolist() == [[4, 3]]


@pytest.mark.parametrize(("unit", "metres"), [("km", 1000), ("ft", 0.3048), ("", 1)])
def test_coordinates_are_metres_whatever_their_unit(unit, metres, tmp_path):
    rates = np.ones((1, 2, 3), np.float32)
    path = write_stack(tmp_path / "a.nc", [0], rates, [5, 15, 25], [15, 5], xy_units=unit)
    with open_fields(path) as fields:
        np.testing.assert_allclose(fields.x, np.array([5, 15, 25]) * metres)


def test_values_out_of_the_valid_range_are_none(tmp_path):
    rates = np.arange(6, dtype=np.int16).reshape(1, 2, 3)
    about = {"valid_range": np.array([1, 4], np.int16), "missing_value": np.int16(2)}
    with open_fields(write_stack(tmp_path / "f", [0], rates, X, Y, attributes=about)) as fields:
        assert np.isnan(fields.frame(0)).tolist() == [[True, False, True], [False, False, True]]


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("mm", (1e-3, False)), ("kg m-2", (1e-3, False)), ("m s-1", (1.0, True)),
     ("mm h-1", (1e-3 / 3600, True)), ("K", None), ("mm h-2", None), ("m2 s-1", None),
     ("kg s-1", None), ("", None), ("mm/h/h", None), ("1", None)],
)  # fmt: skip
def test_units_of_rain(unit, expected):
    assert depth_of(unit) == (expected and pytest.approx(expected))


def test_units_of_time():
    assert seconds_of("days since 1970-01-01T00:00Z")[0] == 86400
    assert seconds_of("s") == (1.0, None)
    with pytest.raises(DataError, match="no date"):
        seconds_of("hours since yesterday")


def break_file(path, how):
    with h5py.File(path, "a") as file:
        if how == "link":
            file["other"] = h5py.ExternalLink("/etc/hosts", "x")
        elif how == "external":
            file.create_dataset("far", (4,), "u1", external=[("/etc/hosts", 0, 4)])
        elif how == "huge":
            file.create_dataset("big", (1, 20_000, 20_000), "f8", chunks=(1, 20_000, 20_000))
        elif how == "calendar":
            file["time"].attrs["calendar"] = "noleap"
        elif how == "chains":
            file["x"].attrs["units"] = "chain"
        elif how == "no value":
            file["rain"][:] = np.nan
        else:
            del file["rain"]


@pytest.mark.parametrize(
    ("how", "match"),
    [("link", "'other' is a link"), ("external", "lie in another file"), ("huge", "unpacks to"),
     ("calendar", "'noleap' is not known"), ("chains", "x is in 'chain'; give m, km, ft"),
     ("no value", "no value in any of its cells"), ("empty", "no variable has the dimensions")],
)  # fmt: skip
def test_files_that_are_refused(how, match, path):
    break_file(path, how)
    with pytest.raises(DataError, match=match):
        files.check(path, "netcdf", {})


@pytest.mark.parametrize(
    ("content", "match"), [(b"CDF\x01" + bytes(20), "nccopy -k nc4"), (b"text", "is no NetCDF"),
                           (b"\x89HDF\r\n\x1a\n" + bytes(50), "damaged or cut short")],
)  # fmt: skip
def test_other_files_are_no_fields(content, match, tmp_path):
    path = tmp_path / "content"
    path.write_bytes(content)
    with pytest.raises(DataError, match=match):
        files.check(path, "netcdf", {})


LATLON = CRS.from_epsg(4326)
GRID = CRS.from_epsg(28356)


@pytest.mark.parametrize(
    ("mapping", "units", "expected"),
    [
        ({"crs_wkt": GRID.to_wkt()}, "m", GRID),
        ({"spatial_ref": GRID.to_wkt()}, "", GRID),
        ({"crs_wkt": GRID.to_wkt()}, "degrees_east", GRID),
        ({"grid_mapping_name": "latitude_longitude"}, "", LATLON),
        (None, "degrees_east", LATLON),
        (None, "m", None),
    ],
)
def test_the_reference_system_is_the_one_that_is_named_else_that_of_degrees(
    mapping, units, expected, tmp_path
):
    variable = SimpleNamespace(attrs={"grid_mapping": "crs"})
    x = SimpleNamespace(attrs={"units": units})
    with h5netcdf.File(tmp_path / "a.nc", "w") as file:
        if mapping is not None:
            file.create_variable("crs", (), "i4").attrs.update(mapping)
        assert crs_of(file, variable, x) == expected
