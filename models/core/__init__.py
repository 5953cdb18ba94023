"""What all methods share: specs, the run handle, the training loop, checkpoints."""
