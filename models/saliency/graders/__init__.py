"""Measures of how good a saliency map is."""
