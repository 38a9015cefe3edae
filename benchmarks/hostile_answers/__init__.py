"""Measures the cost of answers that no model gives, at two sizes each."""
