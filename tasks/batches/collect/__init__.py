"""The collect step: stores the results of a batch, either all of them or none."""
