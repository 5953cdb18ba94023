"""Windows of real rasters for the quality benchmark, as one npz.

    python -m tests.bench.terrain_windows --out windows.npz --size 256 --step 48 RASTER...

Windows with nodata are left out. The npz holds, for each raster, ``NAME`` [count, size, size] in
metres above the window's mean, and ``NAME_cell_m``.
"""

import argparse
from pathlib import Path

import numpy as np
import rasterio


def windows(path, size, step):
    """Heights of all windows without nodata, each less its mean; side of a cell in m."""
    with rasterio.open(path) as raster:
        band, cell = raster.read(1, masked=True), round(raster.res[0], 2)
    rows, columns = (range(0, count - size + 1, step) for count in band.shape)
    parts = [band[i : i + size, j : j + size] for i in rows for j in columns]
    whole = [np.asarray(part, np.float32) for part in parts if not np.ma.getmaskarray(part).any()]
    return np.array([part - part.mean() for part in whole], np.float32), cell


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rasters", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--step", type=int, default=48)
    options = parser.parse_args()
    arrays = {}
    for path in options.rasters:
        z, cell = windows(path, options.size, options.step)
        arrays |= {path.stem: z, f"{path.stem}_cell_m": np.array(cell)}
        print(path.stem, z.shape, cell)
    np.savez_compressed(options.out, **arrays)


if __name__ == "__main__":
    main()
