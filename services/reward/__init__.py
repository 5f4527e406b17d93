"""Scores finished responses."""
