"""vLLM behind the engine's protocol: windows, weights, and what must not go wrong silently."""
