"""The training that every image classifier shares: spec, loop, steps, state, evaluation."""
