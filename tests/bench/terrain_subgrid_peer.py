"""Subgrid tables beside those of hydromt-sfincs, on one real terrain.

    python -m tests.bench.terrain_subgrid_peer --raster FILE.tif --tables FILE.npz [--out FILE.json]

Without ``--out`` it runs where hydromt-sfincs is installed and writes that package's tables; with
it, ours are compared with them. Volumes have to be equal; flow depths may differ, as SFINCS blends
the shallower side of a face with the mean of both.
"""

import argparse
import json
from pathlib import Path

import numpy as np

FACTOR, LEVELS, CELLS = 8, 16, 12  # of each side
ROW, COLUMN, SIDE = 80, 65, FACTOR * CELLS  # a part without nodata


def heights(path):
    import rasterio

    with rasterio.open(path) as raster:
        z = raster.read(1)[ROW : ROW + SIDE, COLUMN : COLUMN + SIDE].astype(np.float64)
    return z - z.mean()


def write_theirs(raster, tables):
    from hydromt_sfincs.subgrid import subgrid_q_table, subgrid_v_table

    z = heights(raster).reshape(CELLS, FACTOR, CELLS, FACTOR).transpose(0, 2, 1, 3)
    half, found = FACTOR // 2, {"level": [], "volume": [], "face_level": [], "face_depth": []}
    for i in range(CELLS):
        for j in range(CELLS):
            level, volume, _, _ = subgrid_v_table(z[i, j].copy(), 1.0, 1.0, LEVELS, -1e4, 1e9)
            found["level"].append(level)
            found["volume"].append(volume)
            if j + 1 < CELLS:
                sides = [z[i, j][:, half:].ravel(), z[i, j + 1][:, :half].ravel()]
                both = np.concatenate(sides)
                got = subgrid_q_table(both, np.full(both.size, 0.05), LEVELS, 0.001)
                found["face_level"].append(got[7])
                found["face_depth"].append(got[2])
    np.savez(tables, **{name: np.array(rows) for name, rows in found.items()})


def compare(raster, tables):
    import torch

    from models.terrain.solver.subgrid import face_shape, mean_depth, tables_of

    theirs = np.load(tables)
    lowest, grid = tables_of(torch.from_numpy(heights(raster))[None], FACTOR)
    gap, span = 0.0, theirs["volume"].reshape(CELLS, CELLS, LEVELS) / FACTOR**2
    levels = torch.from_numpy(theirs["level"].reshape(1, CELLS, CELLS, LEVELS))
    for k in range(LEVELS):
        ours = mean_depth(levels[..., k] - lowest, grid)[0].numpy()
        # level cells differ by the 1e-6 m by which they tell equal heights apart
        full = np.maximum(span[..., -1], 0.01)
        gap = max(gap, float((np.abs(ours - span[..., k]) / full).max()))
    level = torch.from_numpy(theirs["face_level"].reshape(1, CELLS, CELLS - 1, LEVELS))
    depth = theirs["face_depth"].reshape(CELLS, CELLS - 1, LEVELS)
    ratio = [
        float(np.median(face_shape(level[..., k], grid.x).depth[0].numpy() / depth[..., k]))
        for k in (4, 8, 12, 15)
    ]
    return {
        "largest_gap_of_mean_depth_over_full": gap,
        "median_flow_depth_over_theirs_at_levels_4_8_12_15": ratio,
        "cells": CELLS**2,
        "factor": FACTOR,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--raster", type=Path, required=True)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.out is None:
        write_theirs(options.raster, options.tables)
    else:
        options.out.write_text(json.dumps(compare(options.raster, options.tables), indent=1))


if __name__ == "__main__":
    main()
