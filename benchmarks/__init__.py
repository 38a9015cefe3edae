"""Side-by-side measurements, each one command: ``python -m benchmarks.<name>``, see README.md."""
