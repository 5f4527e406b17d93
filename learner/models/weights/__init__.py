"""What the optimizer moves and what computes: masters, shards, adapters, blocks."""
