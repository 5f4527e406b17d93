"""What the learner leaves to read: metrics, journal, traces, trackers, status."""
