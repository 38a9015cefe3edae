"""The task ``penstock.stream``: one request from its wake-up to its end."""
