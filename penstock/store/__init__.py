"""Records in Redis: connections, scripts, and what to do while Redis is unavailable."""
