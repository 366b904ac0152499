"""Wire protocols: HTTP requests in, answers and event streams out. One package a protocol."""
