"""The net to explain: loading, its images, its scores, its input space."""
