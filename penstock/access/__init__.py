"""Addresses and credentials: how they are read, and how they are kept out of texts."""
