"""The create step: make a shard a batch at the API, at most once."""
