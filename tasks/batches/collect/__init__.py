"""The collect step: verify and store the results of a batch, completely or not at all."""
