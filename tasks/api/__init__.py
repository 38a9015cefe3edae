"""The only door to the Anthropic API."""
