"""Local-inertial shallow water: reference step, forcing, adjoint, engines."""
