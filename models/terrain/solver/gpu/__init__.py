"""The step and its adjoint in Triton for GPUs."""
