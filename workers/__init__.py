"""Worker processes: take jobs from SQL, run them in child processes, write back through app."""
