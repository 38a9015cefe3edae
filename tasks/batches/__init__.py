"""The tasks ``penstock.batch.*``: one shard of a job from its requests to its results."""
