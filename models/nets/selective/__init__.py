"""Channel-selective convolution: the unit, its reference, its CPU and GPU kernels."""
