"""Writes the events of all streams of a process to Redis, and renews their leases."""
