"""A whole deployment on this machine: Redis, simulator, workers and Flower."""
