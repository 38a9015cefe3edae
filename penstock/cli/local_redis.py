"""Lets a command find the private Redis of ``penstock up``."""

import os

from penstock.local.redis_url_file import find_url


def use_private_redis() -> None:
    """Set ``PENSTOCK_REDIS_URL`` to the user's private Redis, if it is not set and one runs."""
    if any(name.upper() == "PENSTOCK_REDIS_URL" and value for name, value in os.environ.items()):
        return
    url = find_url()
    if url is not None:
        os.environ["PENSTOCK_REDIS_URL"] = url
