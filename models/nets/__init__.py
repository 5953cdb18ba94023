"""Networks shared by the methods, one family a file."""
