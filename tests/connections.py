"""Connections of tests, which use more commands than the product does."""

from typing import Any

from penstock.client import Client


def redis_of(client: Client) -> Any:
    """The connection of a client, without the product's types."""
    return client._redis
