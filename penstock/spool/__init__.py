"""Compressed chunks of request and result lines, in Redis or in files."""
