"""Reward functions: what the configuration calls them, those that are built in, and those of a user's file."""
