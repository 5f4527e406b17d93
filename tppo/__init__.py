"""Truncated Proximal Policy Optimization as independent, restartable services."""
