"""Routes, one resource a file; no SQL."""
