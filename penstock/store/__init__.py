"""Records in Redis: connections, scripts, and how to wait while Redis is unavailable."""
