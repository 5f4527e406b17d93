"""`tppo doctor`: what is wrong with a machine, and what to do about it."""
