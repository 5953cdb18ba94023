"""Ways to make a saliency map."""
