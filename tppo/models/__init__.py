"""What learner and generators must agree on about a model: the probe, precision, device, context length, memory."""
