"""Which rollouts there are, in which state each is, and which come next."""
