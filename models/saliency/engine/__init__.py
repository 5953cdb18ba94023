"""Fast exact execution: a folded plan of a net, and recomputation of changed boxes alone."""
