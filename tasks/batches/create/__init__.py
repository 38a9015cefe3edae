"""The create step: creates the batch of a shard at the API, at most once."""
