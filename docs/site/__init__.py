"""The documentation site: its pages, gathered from the repository and generated from the code."""
