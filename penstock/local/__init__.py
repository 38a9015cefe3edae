"""Runs a complete deployment on this machine: Redis, simulator, workers and Flower."""
