"""What a reward service reports: statistics in its heartbeat, metrics for Prometheus, a log of scored responses."""
