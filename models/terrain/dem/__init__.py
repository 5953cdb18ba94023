"""Elevation: rasters, generated terrain, hydrology, pooling."""
