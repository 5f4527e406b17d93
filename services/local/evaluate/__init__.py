"""`tppo eval`: how well a checkpoint, or the policy of a run that trains, answers a benchmark."""
