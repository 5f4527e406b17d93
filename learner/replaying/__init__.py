"""The log on the disk, and what is made of it: a replay, a variant, a return to an older checkpoint."""
