"""The tables of the file, each with its keys."""
