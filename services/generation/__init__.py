"""Extends responses by one window at a time."""
