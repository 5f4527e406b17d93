"""`tppo run`: every process on one machine."""
