"""`tppo score`: a file of responses, scored by one function."""
