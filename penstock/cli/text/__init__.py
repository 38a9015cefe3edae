"""The texts that the commands print: fields, tables, progress and numbers."""
