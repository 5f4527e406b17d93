"""What moves the two models: mini-batches, losses and optimizer updates."""
