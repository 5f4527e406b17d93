"""`tppo audit`: whether a run kept its promises, from what it left on the disk. No torch, so it answers at once."""
