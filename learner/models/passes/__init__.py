"""What a pass through a network takes and gives: packed rows, log-probabilities, values."""
