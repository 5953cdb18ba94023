"""Fast exact execution: a fused plan of a net, and recomputation of changed boxes only."""
