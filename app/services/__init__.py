"""Rules and SQL of the service; no HTTP."""
