"""Message batches: their creation, the outcome of each request, and their results."""
