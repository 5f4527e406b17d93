"""What a score is, wherever it is made: in a worker, in a user's own process, or by a verb for files of responses."""
