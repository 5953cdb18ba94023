"""Terrain made coarse so that floods on it stay as on the fine one."""
