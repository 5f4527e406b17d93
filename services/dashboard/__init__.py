"""A run over REST: what it does, what it did, and what is asked of it."""
