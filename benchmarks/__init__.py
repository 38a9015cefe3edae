"""Benchmarks, each of them one command: ``python -m benchmarks.<name>``."""
