"""Methods that compute saliency maps."""
