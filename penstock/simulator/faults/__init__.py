"""Faults: what a prompt or a test asks to go wrong, and which requests meet it."""
