"""Compressed chunks of request and result lines, stored in Redis or in files."""
