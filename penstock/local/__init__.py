"""A deployment on this machine: Redis, the simulator, workers and Flower."""
