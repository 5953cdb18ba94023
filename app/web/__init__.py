"""The page: HTML for browsers over the services that the API uses; no SQL, no rule of its own."""
