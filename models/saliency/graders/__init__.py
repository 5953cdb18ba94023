"""Graders: measures of the quality of a saliency map."""
