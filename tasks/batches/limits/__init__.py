"""Limits that all batches share: active batches at the API, and the cost of a job."""
