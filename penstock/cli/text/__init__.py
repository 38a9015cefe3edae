"""What the command line prints: words, numbers, tables and progress."""
