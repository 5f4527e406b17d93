"""Processes kept alive, and stopped in order."""
