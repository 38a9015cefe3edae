"""One live request, as a client sees it."""
