"""How the rows that run share forward passes and KV caches in families that the fast path does not know."""
