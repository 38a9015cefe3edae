"""Faults: what a prompt or a test asks to go wrong, and for which requests."""
