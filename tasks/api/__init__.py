"""Every call of the Anthropic API, and what its responses and errors mean."""
