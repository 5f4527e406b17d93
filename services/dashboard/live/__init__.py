"""The run at this moment: what Redis and the run's folder say together, and the stream of what changes."""
