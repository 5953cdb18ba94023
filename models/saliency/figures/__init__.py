"""Pictures and charts of saliency jobs."""
