"""Status over REST."""
