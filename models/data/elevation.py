"""Grids of heights: GeoTIFF, ASCII grid, npy; recognised by their first bytes."""

import math
import re
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import rasterio
from rasterio import Affine
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError

from models.core.errors import DataError
from models.data import ascii_grid, heights, preview, projection
from models.data.contents import notes_alone
from models.data.decode import PIXELS

NPY_MAGIC = b"\x93NUMPY"
TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
CELL_SIZE_M = (1e-3, 1e6)
CELL_SIZE_TAG = "CELL_SIZE_M"  # of rasters in degrees that this program writes
SQUARE_TOLERANCE = 1e-3  # a pixel may be this much longer than wide
ROWS_AT_A_TIME = 256
LOCAL_UNIT = re.compile(r'(?:LOCAL_CS|ENGCRS)\[.*?UNIT\["([^"]+)",\s*([0-9.eE+-]+)', re.DOTALL)
Nodata = float | Literal["nan"]
DEGREE_M = 111_320.0  # of longitude at the equator
UNKNOWN = math.nan  # a cell size that nobody needs


class Block(NamedTuple):
    """Some rows of a grid.

    Attributes:
        top: index of the first, as in the file.
        values: float32, 0 where missing [k, columns].
        missing: cells without a value.
    """

    top: int
    values: np.ndarray
    missing: np.ndarray


class Grid(NamedTuple):
    """An open file.

    Attributes:
        rows: of the file.
        columns: of the file.
        cell_size_m: side of a cell in m.
        crs: coordinate reference system; None: not known.
        transform: from (column, row) to coordinates; None: the file has none.
        notes: sentences about what was converted or assumed; complete after reading.
        blocks: reads all rows.
    """

    rows: int
    columns: int
    cell_size_m: float
    crs: Any
    transform: Affine | None
    notes: list[str]
    blocks: Callable[[], Iterator[Block]]


def check(
    path: Path,
    cell_size_m: float | None,
    nodata: Nodata | None = None,
    project: str | None = None,
    picture: Path | None = None,
) -> dict[str, Any]:
    """Validate a terrain by reading all of it, a band of rows at a time.

    Args:
        path: of the file.
        cell_size_m: side of a cell in metres; needed for npy, which does not tell it, and for a
            raster whose unit is the degree; elsewhere it must agree with the file.
        nodata: stored value of cells without a height, beside the one that the file declares;
            ``"nan"`` for NaN, which JSON cannot hold.
        project: reference system in metres to bring it to, as of :func:`projection.project`; the
            cell size is then that of the result.
        picture: where to leave a small hillshade, if anywhere.

    Returns:
        ``rows``, ``columns``, ``cell_size_m``, ``nodata`` where given, and ``contents`` with
        ``notes`` where anything was converted or assumed.

    Raises:
        DataError: naming what is wrong.
    """
    with open_grid(path, cell_size_m, nodata, project) as grid:
        every = -(-max(grid.rows, grid.columns) // preview.LONGEST)
        known, shown = 0, []
        for block in grid.blocks():
            known += int((~block.missing).sum())
            rows = slice(-block.top % every, None, every)
            shown.append(np.where(block.missing, np.nan, block.values)[rows, ::every])
        if known == 0:
            raise DataError("the raster has no data: every cell is nodata")
        if picture is not None:
            heights = np.concatenate(shown)
            southward = grid.transform is None or grid.transform.e < 0
            rows = heights if southward else heights[::-1]
            preview.write_heights(picture, rows, grid.cell_size_m * every)
        sizes = {"rows": grid.rows, "columns": grid.columns, "cell_size_m": grid.cell_size_m}
        if nodata is not None and nodata != "nan":
            sizes["nodata"] = nodata
        return sizes | ({"contents": notes_alone(grid.notes)} if grid.notes else {})


@contextmanager
def open_grid(
    path: Path,
    cell_size_m: float | None = None,
    nodata: Nodata | None = None,
    project: str | None = None,
    *,
    are_heights: bool = True,
) -> Generator[Grid]:
    """Open a file of any of the formats.

    Args:
        path: of the file.
        cell_size_m: as of :func:`check`.
        nodata: as of :func:`check`.
        project: as of :func:`check`.
        are_heights: whether values are heights, converted to metres and checked for their range;
            a map of anything else keeps its unit.

    Raises:
        DataError: naming what is wrong, also while blocks are read.
    """
    low, high = CELL_SIZE_M
    if cell_size_m is not None and not low <= cell_size_m <= high:
        raise DataError(f"options.cell_size_m is {cell_size_m}; use {low:g} to {high:g} metres")
    values = () if nodata is None else (float(nodata),)
    if project is None:
        with _opened(path, cell_size_m, values, are_heights=are_heights) as grid:
            yield grid
        return
    with _opened(path, UNKNOWN, values, are_heights=are_heights) as grid:
        yield _projected(grid, project, cell_size_m)


@contextmanager
def _opened(
    path: Path, cell_size_m: float | None, nodata: tuple[float, ...], *, are_heights: bool
) -> Generator[Grid]:
    with path.open("rb") as file:
        magic = file.read(64)
    if magic.startswith(NPY_MAGIC):
        yield _open_npy(path, cell_size_m, heights.Encoding(1, 0, nodata, are_heights))
    elif magic[:4] in TIFF_MAGICS:
        with _opened_tiff(path) as raster:
            yield _open_raster(raster, cell_size_m, nodata, are_heights)
    elif ascii_grid.begins(magic):
        with ascii_grid.open_text(path) as text:
            yield _open_ascii(text, cell_size_m, nodata, are_heights)
    else:
        raise DataError(f"the file begins with {magic[:6]!r}: neither GeoTIFF, ASCII grid nor npy")


def _projected(grid: Grid, target: str, cell_size_m: float | None) -> Grid:
    """A grid in another reference system; one that seems to be in degrees is taken as WGS 84."""
    notes, crs, transform = grid.notes, grid.crs, grid.transform
    if transform is None:
        raise DataError("options.project: the file has no coordinates that could be projected")
    if crs is None:
        if not _in_degrees(transform, None, (grid.rows, grid.columns)):
            raise DataError("options.project: the file does not name its reference system")
        crs = projection.WGS_84
        notes.append("coordinates without a reference system are taken as degrees of WGS 84")
    values = np.concatenate(
        [np.where(block.missing, np.nan, block.values) for block in grid.blocks()]
    )
    made, cells, system, note = projection.project(values, transform, crs, target, cell_size_m)
    _check_size(*made.shape)
    notes.append(note)

    def blocks() -> Iterator[Block]:
        for top in range(0, len(made), ROWS_AT_A_TIME):
            part = made[top : top + ROWS_AT_A_TIME]
            missing = np.isnan(part)
            yield Block(top, np.where(missing, np.float32(0), part), missing)

    return Grid(*made.shape, cells.a, system, cells, notes, blocks)


# -- npy --------------------------------------------------------------------------------------


def _open_npy(path: Path, cell_size_m: float | None, how: heights.Encoding) -> Grid:
    if cell_size_m is None:
        raise DataError("options.cell_size_m is needed: an npy file does not tell its cell size")
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"the npy is damaged, cut short or of Python objects: {error}") from error
    if stored.ndim != 2 or stored.dtype.kind not in "fiu":
        raise DataError(
            f"the npy holds {stored.dtype} of shape {stored.shape}; give heights in metres as a "
            "2-D array of numbers"
        )
    rows, columns = stored.shape
    _check_size(rows, columns)

    def blocks() -> Iterator[Block]:
        for top in range(0, rows, ROWS_AT_A_TIME):
            part = np.asarray(stored[top : top + ROWS_AT_A_TIME])
            yield Block(top, *heights.decode(part, np.zeros(part.shape, bool), how, top))

    return Grid(rows, columns, cell_size_m, None, None, _nodata_note(how.nodata), blocks)


# -- ASCII grid -------------------------------------------------------------------------------


def _open_ascii(
    file: Any, cell_size_m: float | None, nodata: tuple[float, ...], are_heights: bool
) -> Grid:
    header = ascii_grid.read_header(file)
    _check_size(header.rows, header.columns)
    width, height = header.cell
    top = header.bottom + header.rows * height
    transform = Affine(width, 0, header.left, 0, -height, top)
    notes = _nodata_note(nodata)
    size = _cell_size_m(transform, None, None, _shape(header), cell_size_m, notes)
    declared = () if header.nodata_value is None else (header.nodata_value,)
    how = heights.Encoding(1, 0, declared + nodata, are_heights)
    rows = ascii_grid.Rows(file, header)

    def blocks() -> Iterator[Block]:
        top = 0
        for values in rows:
            yield Block(top, *heights.decode(values, np.isnan(values), how, top))
            top += len(values)
        notes.extend(rows.notes)

    return Grid(*_shape(header), size, None, transform, notes, blocks)


def _shape(header: ascii_grid.Header) -> tuple[int, int]:
    return header.rows, header.columns


# -- GeoTIFF ----------------------------------------------------------------------------------


@contextmanager
def _opened_tiff(path: Path) -> Generator[rasterio.DatasetReader]:
    # No look at neighbouring files: a raster is the bytes that were uploaded, nothing else.
    with (
        rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
        warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
    ):
        try:
            with rasterio.open(path, driver="GTiff") as raster:
                yield raster
        except RasterioError as error:
            raise DataError(f"the GTiff file is damaged or cut short: {error}") from error


def _open_raster(
    raster: rasterio.DatasetReader,
    cell_size_m: float | None,
    nodata: tuple[float, ...],
    are_heights: bool,
) -> Grid:
    if raster.count != 1:
        raise DataError(f"the raster has {raster.count} bands; an elevation has one")
    if np.dtype(raster.dtypes[0]).kind not in "fiu":
        raise DataError(f"the raster holds {raster.dtypes[0]}; give heights as real numbers")
    shape = (raster.height, raster.width)
    _check_size(*shape)
    how, notes = _encoding(raster, nodata, are_heights)
    notes = _nodata_note(nodata) + notes
    transform = None if raster.transform.is_identity else raster.transform
    tag = raster.tags().get(CELL_SIZE_TAG)
    size = _cell_size_m(transform, raster.crs, tag, shape, cell_size_m, notes)
    return Grid(*shape, size, raster.crs, transform, notes, lambda: _raster_blocks(raster, how))


def _encoding(
    raster: rasterio.DatasetReader, nodata: tuple[float, ...], are_heights: bool
) -> tuple[heights.Encoding, list[str]]:
    declared = () if raster.nodata is None else (float(raster.nodata),)
    unit, silent = 1.0, False
    if are_heights:
        wkt = "" if raster.crs is None else raster.crs.to_wkt()
        unit = heights.unit_m(raster.units[0] or "", wkt)
        silent = not raster.units[0] and not heights.VERTICAL_UNIT.search(wkt)
    how, notes = heights.encoding(raster.scales[0], raster.offsets[0], unit, declared + nodata)
    if silent and raster.crs is not None and not raster.crs.is_geographic:
        name, metres = length_unit(raster.crs)
        if metres != 1.0:
            notes.append(
                f"heights are taken as metres: the file names no unit of heights, though its"
                f" coordinates are in {name}; set the band's unit if heights are too"
            )
    return how._replace(are_heights=are_heights), notes


def _raster_blocks(raster: rasterio.DatasetReader, how: heights.Encoding) -> Iterator[Block]:
    for top in range(0, raster.height, ROWS_AT_A_TIME):
        last = min(top + ROWS_AT_A_TIME, raster.height)
        band = raster.read(1, window=((top, last), (0, raster.width)), masked=True)
        yield Block(top, *heights.decode(band.data, np.ma.getmaskarray(band), how, top))


# -- sizes ------------------------------------------------------------------------------------


def _nodata_note(nodata: tuple[float, ...]) -> list[str]:
    return [f"cells of the value {value:.9g} have no height" for value in nodata]


def _cell_size_m(
    transform: Affine | None,
    crs: Any,
    tag: str | None,
    shape: tuple[int, int],
    given: float | None,
    notes: list[str],
) -> float:
    """Side of a cell in metres, from the file where it tells."""
    if transform is None or given is UNKNOWN:
        if given is None:
            raise DataError(
                "the raster does not tell its cell size; give options.cell_size_m in metres"
            )
        return given
    if _in_degrees(transform, crs, shape) and not (crs is None and tag):
        return _size_in_degrees(transform, crs, tag, shape, given, notes)
    width, height = _sides(transform)
    metres = length_unit(crs)[1]
    if abs(width - height) > SQUARE_TOLERANCE * width:
        size = float(tag) if given is None and tag is not None else given
        return _not_square(width * metres, height * metres, size, notes)
    size = width * metres
    if given is not None and abs(given - size) > SQUARE_TOLERANCE * size:
        raise DataError(f"options.cell_size_m is {given}, the file says {size} m; leave it out")
    if not CELL_SIZE_M[0] <= size <= CELL_SIZE_M[1]:
        raise DataError(f"cells of {size:g} m; from {CELL_SIZE_M[0]:g} to {CELL_SIZE_M[1]:g} m")
    if metres != 1.0:
        notes.append(f"coordinates are converted to metres, {metres:.10g} m a unit")
    return size


def length_unit(crs: Any) -> tuple[str, float]:
    """Name and metres of the unit of a reference system that is not in degrees; None: metres.

    Raises:
        DataError: if it has no unit of length along two axes, such as a geocentric one.
    """
    if crs is None:
        return "m", 1.0
    try:
        name, metres = crs.linear_units_factor
    except CRSError as error:
        local = LOCAL_UNIT.match(crs.to_wkt())
        if local is None:
            raise DataError(
                "the raster's reference system is neither projected nor geographic nor local;"
                " reproject it to metres"
            ) from error
        name, metres = local.group(1), float(local.group(2))
    return ("m" if metres == 1.0 else name), metres


def _sides(transform: Affine) -> tuple[float, float]:
    """Width and height of a cell in the unit of the coordinates; a grid may be rotated."""
    return math.hypot(transform.a, transform.d), math.hypot(transform.b, transform.e)


def _not_square(width: float, height: float, given: float | None, notes: list[str]) -> float:
    if given is None or not 0.5 * min(width, height) <= given <= 2 * max(width, height):
        raise DataError(
            f"cells of {width:g} x {height:g} m; they must be square: resample the raster, or give "
            "options.cell_size_m between the two to take them as squares of this size"
        )
    notes.append(f"cells of {width:g} x {height:g} m are taken as squares of {given:g} m")
    return given


def _in_degrees(transform: Affine, crs: Any, shape: tuple[int, int]) -> bool:
    """Whether coordinates are degrees; without a reference system, whether they look like it."""
    if crs is not None:
        return bool(crs.is_geographic)
    right, bottom = transform @ (shape[1], shape[0])
    on_earth = all(abs(x) <= 360 for x in (transform.c, right))
    on_earth &= all(abs(y) <= 90 for y in (transform.f, bottom))
    fine = max(_sides(transform)) < 0.1
    return on_earth and fine and (transform.c, transform.f) != (0, 0) and bottom != 0


def _size_in_degrees(
    transform: Affine,
    crs: Any,
    tag: str | None,
    shape: tuple[int, int],
    given: float | None,
    notes: list[str],
) -> float:
    """The given size, or the one in the tag of a raster that this program wrote."""
    size = float(tag) if given is None and tag is not None else given
    width, height = (side * DEGREE_M for side in _sides(transform))
    middle = (transform @ (shape[1] / 2, shape[0] / 2))[1]
    width *= max(math.cos(math.radians(middle)), 0.0)
    if size is None:
        is_or_seems = "is" if crs is not None else "has no reference system and seems to be"
        raise DataError(
            f"the raster {is_or_seems} in degrees; give options.project, such as utm, or take its"
            f" cells, about {width:.4g} m wide and {height:.4g} m high, as squares of"
            " options.cell_size_m"
        )
    notes.append(
        f"cells in degrees, about {width:.4g} m wide and {height:.4g} m high, are taken as squares"
        f" of {size:g} m"
    )
    return size


def _check_size(rows: int, columns: int) -> None:
    if not 1 <= rows * columns <= PIXELS:
        raise DataError(f"{rows} x {columns} cells; from 1 to {PIXELS} are allowed")
    if min(rows, columns) < 2:
        raise DataError(f"{rows} x {columns} cells; a terrain has 2 rows and 2 columns or more")
