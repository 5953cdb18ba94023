"""Series and surveyed levels as CSV: units, dates, order; what is wrong is named by its line."""

import math

import numpy as np
import pytest

from models.core.errors import DataError
from models.data import columns, files, marks, series


def written(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_a_series_of_100000_moments(tmp_path):
    rows = "\n".join(f"{k * 60},{k % 7 / 10}" for k in range(100_000))
    path = written(tmp_path / "content", f"time_s,discharge_m3_s\n{rows}\n")
    counts = files.check(path, "series", {})
    assert (counts["moments"], counts["values"]) == (100_000, 1)
    made = series.read(path)
    assert made.times_s[-1] == 99_999 * 60
    assert made.values["discharge_m3_s"][1:4].tolist() == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("time_min,value\n0,1\n2,3\n", [0, 120]),
        ("Time [h],value\n0,1\n0.5,3\n", [0, 1800]),
        ("\ufefftime_s;tide (m)\r\n0;1,5\r\n10;2,5\r\n", [0, 10]),
        ("# from a logger\n\ntime_s\tvalue\n0\t1\n\n1e1\t2\n", [0, 10]),
        ("time,level_m\n2024-05-01T23:00,1\n2024-05-02 01:00:30,2\n", [0, 7230]),
        ("datetime,level_m\n2024-05-01T12:00:00Z,1\n2024-05-01T14:00:00+01:00,2\n", [0, 3600]),
    ],
)
def test_headers_and_times(text, times, tmp_path):
    assert series.read(written(tmp_path / "content", text)).times_s.tolist() == times


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "the file is empty"),
        ("time_s,value\n", "a header and no row"),
        ("0,1\n1,2\n", "does not name two columns"),
        ("time_s\n0\n", "does not name two columns"),
        ("t,value\n0,1\n", "call it time_s, time_min, time_h or time_d"),
        ("time_s,a,a\n0,1,2\n", "two columns are called 'a'"),
        ("time_s,value\n0,1\n0,2\n", "must rise"),
        ("time_s,value\n5,1\n3,2\n", "that of row 2 is 3 s after 5 s"),
        ("time_s,value\n-5,1\n", "the first time is -5 s"),
        ("time_s,value\n0,1\n1,\n", "line 3: the column 'value' is empty"),
        ("time_s,value\n0,nan\n", "line 2: the column 'value' holds 'nan'"),
        ("time_s,value\n0,1.234,5\n", "line 2 has 3 cells, the header 2"),
        ("time_s,value\n0,x\n", "'x', which is no number"),
        ("time,value\nMay 1,1\n", "write a date as"),
        ("time,value\n2024-05-01T12:00,1\n2024-05-01T13:00Z,1\n", "some do not"),
    ],
)
def test_series_that_are_refused(text, match, tmp_path):
    with pytest.raises(DataError, match=match):
        files.check(written(tmp_path / "content", text), "series", {})


def test_a_table_is_text_in_utf8(tmp_path):
    path = written(tmp_path / "content", "time_s,Abfluß\n0,1\n", "latin-1")
    with pytest.raises(DataError, match="UTF-8"):
        series.read(path)


@pytest.mark.parametrize(
    ("name", "unit", "expected"),
    [("discharge_m3_s", "m3_s", 1), ("Q [m³/s]", "m3_s", 1), ("Q (l/s)", "m3_s", 1e-3),
     ("value", "m3_s", 1), ("flow cumecs", "m3_s", 1), ("tide_ft", "m", 0.3048),
     ("level_m", "m", 1), ("rain_mm_per_h", "mm_h", 1), ("rain [mm/h]", "mm_h", 1),
     ("rain [mm per hour]", "mm_h", 1), ("rate_m_s", "mm_h", 3.6e6),
     ("inflow_cfs", "m3_s", 0.028316846592), ("Q [cfs]", "m3_s", 0.028316846592),
     ("stage_feet", "m", 0.3048), ("inflow_m3s", "m3_s", 1)],
)  # fmt: skip
def test_units_in_names_of_columns(name, unit, expected):
    assert math.isclose(columns.factor(name, unit), expected)


@pytest.mark.parametrize(("name", "unit"), [("level_m", "m3_s"), ("rain_mm", "mm_h"),
                                            ("Q [gpm]", "m3_s"), ("Q_m3_s", "m"),
                                            ("q_gpm", "m3_s"), ("rain_inches", "mm_h"),
                                            ("stage_yards", "m")])  # fmt: skip
def test_a_unit_of_something_else_is_refused(name, unit):
    with pytest.raises(DataError, match="no unit of what is asked for"):
        columns.factor(name, unit)


def test_surveyed_levels(tmp_path):
    path = written(tmp_path / "content", "id,x,y,level [cm]\nA,500100,6000200,1250\nB,2,3,1300\n")
    assert files.check(path, "marks", {})["marks"] == 2
    made = marks.read(path)
    assert np.allclose(made.level_m, [12.5, 13])
    assert made.x[0] == 500100
    assert not made.in_degrees
    lon = written(tmp_path / "lon", "lon,lat,level_m\n151.2,-33.9,4.5\n")
    assert marks.read(lon).in_degrees


@pytest.mark.parametrize(
    ("text", "match"),
    [("x,y\n1,2\n", "no column is called level"), ("x,y,level_s\n1,2,3\n", "no unit of what"),
     ("x,y,level_m\n", "no row"), ("lon,lat,level_m\n500000,6e6,3\n", "no degrees"),
     ("x,y,level_m\n1,,3\n", "'y' is empty")],
)  # fmt: skip
def test_marks_that_are_refused(text, match, tmp_path):
    with pytest.raises(DataError, match=match):
        files.check(written(tmp_path / "content", text), "marks", {})
