"""Batch jobs, as a client sees them."""
