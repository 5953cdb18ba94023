"""Input-perturbation saliency: maps from what a class score does when parts of the image change."""
