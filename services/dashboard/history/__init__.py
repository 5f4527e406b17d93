"""A run as its folder has it: journal, metrics, configuration. Works without any server."""
