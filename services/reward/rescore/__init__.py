"""`tppo rescore`: the responses of a run, scored again by another function."""
