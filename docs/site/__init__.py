"""The documentation site: collects its pages and generates the references."""
