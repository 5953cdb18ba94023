"""Units of fields of specs: the ends of their names, as CONTRIBUTING.md asks for."""

# an end with its words before it, so that `discharge_m3_s` is no time
ENDS = {
    "_m3_s": "m³/s",
    "mm_per_h": "mm/h",
    "width_cells": "cells",
    "_seconds": "s",
    "_m": "m",
    "_s": "s",
}


def unit_of(name: str) -> str:
    """The unit of a field, such as ``s`` of ``duration_s``; empty where its name tells none."""
    return next((unit for end, unit in ENDS.items() if name.endswith(end)), "")
