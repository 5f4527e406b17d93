"""Reward functions that users' own processes offer over gRPC."""
