"""NetCDF files of rain for tests."""

import h5netcdf
import numpy as np


def write_stack(path, times, rates, x, y, **given):
    """A NetCDF of rates [t, y, x].

    Args:
        path: of the file.
        times: in ``time_units``, those of the file.
        rates: in ``units``.
        x: centres of the columns.
        y: centres of the rows.
        given: ``units``, ``time_units``, ``bounds`` [t, 2], ``crs_wkt``, ``xy_units``; further
            ones are attributes of the variable.
    """
    units = {"units": given.pop("units", "mm h-1")} | given.pop("attributes", {})
    bounds, wkt = given.pop("bounds", None), given.pop("crs_wkt", None)
    xy, time_units = given.pop("xy_units", "m"), given.pop("time_units", "s")
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"time": len(times), "y": len(y), "x": len(x), "nv": 2}
        for name, values, unit in (("time", times, time_units), ("y", y, xy), ("x", x, xy)):
            axis = file.create_variable(name, (name,), np.float64)
            axis[:] = values
            axis.attrs["units"] = unit
        if bounds is not None:
            file.variables["time"].attrs["bounds"] = "time_bnds"
            file.create_variable("time_bnds", ("time", "nv"), np.float64)[:] = bounds
        if wkt is not None:
            file.create_variable("crs", (), np.int32).attrs["crs_wkt"] = wkt
            units["grid_mapping"] = "crs"
        rates = np.asarray(rates)
        rain = file.create_variable("rain", ("time", "y", "x"), rates.dtype, **given)
        rain[:] = rates
        rain.attrs.update(units)
    return path


def rain_over(times, rates, until, between="step"):
    """What falls on each cell until a time, in (unit of rates) times s: an independent sum.

    ``step``: a field falls to the next time, the last as long as the one before.
    """
    times, rates = np.asarray(times, float), np.asarray(rates, float)
    if between == "linear":
        until = np.clip(until, times[0], times[-1])
        knots = np.array([*times[times < until], until])
        flat = rates.reshape(len(times), -1)
        at = np.stack([np.interp(knots, times, column) for column in flat.T], 1)
        return np.trapezoid(at, knots, axis=0).reshape(rates.shape[1:])
    ends = np.append(times[1:], 2 * times[-1] - times[-2])
    lasts = np.clip(ends, None, until) - np.clip(times, None, until)
    return (lasts[:, None, None] * rates).sum(0)
