"""The dashboard: a run's status, history and control over REST, and its page."""
