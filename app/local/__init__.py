"""A whole service on one machine: its processes, its broker, its address, its examination."""
