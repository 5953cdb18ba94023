"""Dynamic downsampling: training in which some steps see small images and small kernels."""
