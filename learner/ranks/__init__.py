"""The ranks of a learner that is several processes: how they meet, and what rank 0 orders the others to do."""
