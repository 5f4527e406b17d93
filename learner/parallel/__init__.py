"""One learner as several processes: every rank makes the same calls with the same rows, and passes are divided."""
