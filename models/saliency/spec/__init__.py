"""Specs of the saliency kinds. Torch-free."""
