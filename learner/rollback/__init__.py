"""`tppo rollback`: the command."""
