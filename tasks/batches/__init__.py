"""The tasks ``penstock.batch.*`` take one shard of a job from its requests to its results."""
