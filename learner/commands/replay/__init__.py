"""`tppo replay`: rebuild a run from its archived inbox, and compare."""
