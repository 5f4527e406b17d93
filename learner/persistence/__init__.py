"""What survives a restart: checkpoints, the archived inbox, the run's identity and lease, rollback."""
