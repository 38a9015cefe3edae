"""The commands of ``penstock``, one module per command or group of commands."""
