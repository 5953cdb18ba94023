"""Specs of the terrain kinds. Torch-free."""
