"""Limits on what is sent: active batches at the API, and the cost of a job."""
