"""What every route shares: keys, problem documents, strict JSON, ranges, event streams."""
