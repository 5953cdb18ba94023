"""The service: HTTP API, tables, rules, storage, client and command line. Never loads torch."""
