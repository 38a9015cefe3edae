"""The body of a Messages request: the names of its fields, and how its values become JSON."""
