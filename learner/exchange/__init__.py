"""What goes out to the other processes and comes back: requests, weights, the inbox."""
